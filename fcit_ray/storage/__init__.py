"""Files: whole or absent, of a safe name, what they are before they are read, and where: a folder or an object store.

Imports no other room.
"""
