"""The continual methods live here, one file each, with their sources.

May import `federated`, what `models` has of the bank and its names, and the top; they know neither files nor Ray.
"""
