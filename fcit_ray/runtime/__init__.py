"""All that knows Ray: driver actor, workers, Ray Data, launching, sweeping, answering; and what is told meanwhile.

May import `tracking`, `serving`, `results`, `experiment`, `federated`, `data`, `models`, `config`, `storage` and the
top; not the terminal.
"""
