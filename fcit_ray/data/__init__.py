"""From the files of a benchmark to batches and scores; each step has a room.

Imports `config`, `storage` and `models` (a record becomes tokens by a model's processor).
"""
