"""The FCIT datasets and its neighbours' in miniature: drawn pictures in the authors' layouts, for laptops and tests.

May import `records` beside it, and what `data` may; knows no model.
"""
