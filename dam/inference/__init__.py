"""A finished run, opened from its directory, and what it says about images it has never seen."""
