"""The frozen base and what it carries: loading, structure, prompts, the adapter bank.

Imports `config` and `storage`.
"""
