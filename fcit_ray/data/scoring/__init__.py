"""How answers are scored, rule by rule, and what is odd about them beside being wrong.

May import `records` beside it, and what `data` may.
"""
