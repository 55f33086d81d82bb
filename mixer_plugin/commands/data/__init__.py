"""Commands around a data set."""
