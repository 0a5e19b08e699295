"""What a run leaves: its folder, checkpoints, figures, tables and pictures.

Imports `config`, `storage` and `data`; nothing that trains.
"""
