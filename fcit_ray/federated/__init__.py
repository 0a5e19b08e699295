"""One federated run: the server's two functions, a client's training, and the axes that cross (FedAvg and its kin).

Imports `config`, `data` and `models`; what a continual method may do is `method`, the methods are a room above.
"""
