"""A gallery over HTTP; needs the extra ``serve``."""
