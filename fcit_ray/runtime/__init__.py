"""All that knows Ray: the driver actor, the workers, Ray Data, launching and sweeping; and what a run tells meanwhile.

May import `tracking`, `results`, `experiment`, `federated`, `data`, `models`, `config`, `storage` and the top; not the
terminal.
"""
