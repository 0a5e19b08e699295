"""A trained model after its run: restored, handed over, asked.

May import `experiment`, `results`, `federated`, `models`, `config`, `storage` and the top; nothing of Ray.
"""
