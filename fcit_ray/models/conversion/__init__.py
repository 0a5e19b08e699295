"""From original checkpoints to what `model.path` and `model.identity_encoder` take."""
