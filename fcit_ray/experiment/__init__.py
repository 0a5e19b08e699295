"""From a configuration to the parts of a run: the algorithm by name, what does not cross, sizes, data, the bank.

Imports all rooms below it, `methods` the last.
"""
