"""The two-part run: one loop for all stages, checkpoints, the run directory, predictions."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler talks of missing GPUs; read once, at torch's import
