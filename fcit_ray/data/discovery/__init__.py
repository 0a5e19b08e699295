"""Looking at files that nobody has declared: what they are, why, and the configuration that a run would need.

May import `records` and `checking` beside it, and what `data` may.
"""
