"""How a model is run: hooked forward passes, state, traces, training steps."""
