"""What is done with the two factors of a LoRA: trained, sent, combined.

May import `traits` beside it, and what `federated` may; no other axis.
"""
