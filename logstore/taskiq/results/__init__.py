"""The result backends."""
