"""Frozen features of instructions and pictures: what identity tokens and gates are computed from.

May import the rest of `models` and what it may.
"""
