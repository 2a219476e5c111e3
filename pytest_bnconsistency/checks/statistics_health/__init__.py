"""The stored statistics are usable."""
