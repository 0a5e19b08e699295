"""From original checkpoints to what `model.path` and `model.identity_encoder` take.

May import the rest of `models`, `storage` and the top.
"""
