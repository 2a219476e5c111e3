"""A row's result does not depend on its batch."""
