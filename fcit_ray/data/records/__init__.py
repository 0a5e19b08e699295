"""Records as they stand in files: read, checked field by field, with their pictures; what is set aside.

May import the reading half of `parquet` beside it, and what `data` may.
"""
