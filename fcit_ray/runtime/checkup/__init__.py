"""What `fcit-ray doctor` looks at on every node of a cluster, and what it makes of it.

`looking.py` runs on the nodes, `asking.py` sends it there and knows Ray; what they find is plain facts (`facts.py`).
What follows from these is told without any cluster (`machines.py`, `places.py`, `doors.py`).
"""
