"""What can part evaluation from training, each tested by undoing it."""
