"""Evaluation says what training said."""
