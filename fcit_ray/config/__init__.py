"""The configuration: its schema, reading it, the facts about data sets that it names, and what to say of mistakes.

Imports the storage room, and the modules that lie beside the rooms.
"""
