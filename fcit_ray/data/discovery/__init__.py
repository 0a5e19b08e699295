"""Looking at files that nobody has declared: what they are, why, and the configuration that a run would need.

May import `formats`, `records` and `scoring` beside it, and what `data` may.
"""
