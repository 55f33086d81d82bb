"""From scores to ranks and metrics."""
