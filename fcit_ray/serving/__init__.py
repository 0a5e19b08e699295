"""A trained model after its run: restored, handed over, asked, scored again.

May import `experiment`, `results`, `federated`, `data`, `models`, `config`, `storage` and the top; nothing of Ray.
"""
