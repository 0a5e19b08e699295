"""Questions of whoever has a trained model: JSON, JSONL, Parquet or pictures in a folder, read a block at a time.

May import `loading` and `records` beside it, and what `data` may.
"""
