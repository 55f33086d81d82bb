"""One forward of a wrapped model: what is read, and what the heads make of it."""
