"""The continual methods, one file each.

May import `federated`, the bank and names of parameters in `models`, and the top; knows neither files nor Ray.
"""
