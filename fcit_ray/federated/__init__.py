"""One federated run: the server's two functions, a client's training, the axes and what does not cross.

May import `data`, `models`, `config` and the top; of continual methods it knows what one may do (`method`), and none.
"""
