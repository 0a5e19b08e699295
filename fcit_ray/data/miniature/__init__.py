"""The twelve FCIT datasets in miniature: drawn pictures in the authors' layout, for laptops and tests.

May import `records` beside it, and what `data` may; knows no model.
"""
