"""What made what the library ships; not part of it."""
