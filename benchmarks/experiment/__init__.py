"""One benchmark run: configuration, cells, measures, tables and pictures."""
