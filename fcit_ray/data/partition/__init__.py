"""Who holds which records, who is selected, and the stream of tasks; a partition as files.

May import `records` and `parquet` beside it, and what `data` may.
"""
