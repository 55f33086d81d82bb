"""Decoding, caching, sampling and augmenting images."""
