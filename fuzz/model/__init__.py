"""A model of the protocol between processes, and its exhaustive search."""
