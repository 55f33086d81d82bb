"""Everything that waits for a GPU, in one command of less than ten minutes."""
