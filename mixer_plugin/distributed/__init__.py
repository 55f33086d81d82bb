"""Several processes: gathering, batch normalisation, and work in common."""
