"""Damaged files at every door: ``make fuzz`` looks for them, ``make test`` reads those it found."""
