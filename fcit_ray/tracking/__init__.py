"""What a run hands to trackers while it goes on: TensorBoard, Weights & Biases, MLflow, or one of the user's own.

May import `results`, `config`, `storage` and the top.
"""
