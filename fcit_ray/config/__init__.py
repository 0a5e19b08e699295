"""The configuration: its schema, reading and merging files, sweep files, the catalog of data sets, words for mistakes.

May import `storage` and the top; what a section's `name` stands for it does not know.
"""
