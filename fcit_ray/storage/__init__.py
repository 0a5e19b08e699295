"""Files: whole or absent, of a safe name, what they are before they are read; a folder here or in an object store.

May import the top alone; what a file is about it does not know.
"""
