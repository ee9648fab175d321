"""The two-part run: one loop for all stages, checkpoints, the run directory, predictions."""
