"""Commands around a gallery."""
