"""A second, literal evaluation."""
