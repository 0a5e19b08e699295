"""Frozen features of instructions and pictures: what identity tokens and gates are computed from."""
