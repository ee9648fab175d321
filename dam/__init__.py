"""dam: deep AUC maximization, from a config to a trustworthy report."""

__version__ = "0.1.0"
