"""The report of one run or many: a page for a browser, LaTeX, CSV.

May import `results`, `config`, `data` (for the questions and pictures that were answered), `storage` and the top.
"""
