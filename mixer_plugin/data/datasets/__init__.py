"""Readers, split lists and checks of the released data sets."""
