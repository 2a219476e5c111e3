"""Why a property does not hold."""
