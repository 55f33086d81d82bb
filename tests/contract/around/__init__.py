"""What is around a wrapped model, inside its stages, and between its calls."""
