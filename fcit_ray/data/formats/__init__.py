"""Formats that people keep records in, each read to plain items and put into the one shape that is checked.

May import `storage`, `config` and the top, and of `records` beside it what a single value may be.
"""
