"""What is said of an evaluation besides its table."""
