"""Analyses of an evaluation beyond its table."""
