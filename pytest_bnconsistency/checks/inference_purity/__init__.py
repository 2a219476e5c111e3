"""Inference changes nothing and means one thing."""
