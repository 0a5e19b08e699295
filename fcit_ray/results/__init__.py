"""What a run leaves: its folder, checkpoints, figures, tables and pictures.

May import `data` (for the reference row), `config`, `storage` and the top; nothing that trains.
"""
