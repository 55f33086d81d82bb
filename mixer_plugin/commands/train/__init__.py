"""Commands that train, or prepare it."""
