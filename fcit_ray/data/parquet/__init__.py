"""A data root as sharded Parquet, for object stores: written, and read like the root itself.

Its reading may import `records.parsing`, its writing all of `records`; and what `data` may.
"""
