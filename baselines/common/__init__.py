"""Building blocks that several baselines share."""
