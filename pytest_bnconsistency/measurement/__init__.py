"""Numbers taken from runs; a measurement never judges."""
