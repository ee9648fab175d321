"""Shared by all tests: one torch thread a worker, hypothesis made deterministic."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("dam", derandomize=True, deadline=None)
settings.load_profile("dam")
