"""The catalogue of rules, and a page a rule."""
