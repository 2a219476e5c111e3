"""How a subject is observed. A probe never judges."""
