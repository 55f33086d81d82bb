"""Commands around a network of your own."""
