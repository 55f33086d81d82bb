"""What `mixer-plugin evaluate` does and prints."""
