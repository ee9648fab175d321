"""Two processes pretrain as one does: as many BatchNorm groups, the same company for every key, the same queue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_distributed import environment, free_port
from test_pretrain import WORDS

from dam.cli import main


def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    torch.set_num_threads(1)
    words = [*WORDS, "pretrain.steps=4", "pretrain.optimizer.lr=0.01", "precision=fp32"]
    assert main(["pretrain", *words, f"run_dir={tmp_path / 'one'}"]) == 0
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "dam", "pretrain", *words, f"run_dir={tmp_path / 'two'}"],
            env=environment(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stderr=subprocess.PIPE,
            text=True,
            cwd=os.fspath(tmp_path),
        )
        for rank in (0, 1)
    ]
    for process in ranks:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    one, two = (pd.read_csv(tmp_path / run / "pretrain" / "metrics.csv") for run in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-3, atol=1e-3)
    ours, theirs = (load_file(tmp_path / run / "pretrain" / "best.safetensors") for run in ("one", "two"))
    for name, value in ours.items():
        if not name.endswith("num_batches_tracked"):  # of one's groups, and of one process's
            assert torch.allclose(value, theirs[name], atol=1e-4, rtol=1e-3), name
