"""Commands that get, evaluate and probe features."""
