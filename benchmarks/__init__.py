"""What dam costs, as ratios of two things timed in one run: ``python -m benchmarks`` (docs/performance.md)."""
