"""From a configuration to the parts of a run: the algorithm by name, sizes, data, the bank.

May import `federated`, `data`, `models`, `config`, `storage` and the top; parts come by the names in `components`.
"""
