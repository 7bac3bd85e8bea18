"""Sampling completions, and the one seam between arrays and strings."""
