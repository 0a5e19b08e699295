"""The frozen base and what it carries: loading, structure, prompts, identity features, the bank of adapters.

May import `config`, `storage` and the top; knows nothing of records or clients.
"""
