"""What a run needs, before it starts: memory, time, traffic, and the smallest change that fits.

Imports `experiment` and what is below.
"""
