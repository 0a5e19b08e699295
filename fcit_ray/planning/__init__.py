"""What a run needs, told before it starts: memory, time, traffic, and the smallest change that fits.

May import `experiment`, `federated`, `data`, `models`, `config` and the top; nothing that runs.
"""
