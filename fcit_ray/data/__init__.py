"""From the files of a benchmark to batches and scores; each step has a room of its own.

May import `models` (a record becomes tokens by a model's processor), `config`, `storage` and the top.
"""
