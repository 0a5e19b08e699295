"""What a user types and what the terminal shows live here.

May import every room; what is heavy, inside the commands.
"""
