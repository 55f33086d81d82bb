"""A table of runs: its configuration, its cells, their measures, its pages."""
