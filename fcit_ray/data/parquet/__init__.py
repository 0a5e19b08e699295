"""A data root as sharded Parquet, for object stores: written, and read like the root itself."""
