"""Results to text. Knows results only."""
