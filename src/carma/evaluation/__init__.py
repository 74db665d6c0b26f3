"""How good plans are, on one scale for every method."""
