"""A store over HTTP; needs the extra ``serve``."""
