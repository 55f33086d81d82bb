"""The benchmark's own training loop."""
