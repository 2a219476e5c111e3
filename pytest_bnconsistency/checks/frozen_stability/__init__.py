"""What is declared frozen stays frozen."""
