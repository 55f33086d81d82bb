"""One forward of a wrapped model: taps, gradient routes and related heads."""
