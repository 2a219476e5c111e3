"""Arrays, nests and recipes: what rows are, how they are read and made."""
