"""Scripts that measure speed, each against a peer or a floor."""
