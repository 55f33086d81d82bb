"""Re-ranking methods that respect removals."""
