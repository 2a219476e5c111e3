"""How a model behaves is what the repository says of it."""
