"""What a user types, and what the terminal shows. May import all rooms; what is heavy, inside the commands."""
