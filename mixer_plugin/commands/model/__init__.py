"""The model that a command runs over images: its options, and how it is built."""
