"""Every experiment file trains: two steps a stage on phantom pictures in place of its own data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dam.compose import compose
from dam.config_files import choices
from dam.training.run import start

# Smallest images the network takes; everything else of the recipe stays.
SIZES = {"chexpert_swin": 56, "chexpert_davit": 64}


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiment_trains_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    cifar = name.startswith("cifar10")
    labels = ["data.labels=[Edema]"] if cifar or name == "csv_example" else ["auc.labels=[Edema]"]
    config = compose(
        [
            *(f"+experiment={name}", "data=phantom", "data.patients=60", "data.phantom_size=48", *labels),
            *("model.weights=null", f"image_size={SIZES.get(name, 32)}", "batch_size=8", "limit_batches=2"),
            *("device=cpu", "workers=0", f"run_dir={tmp_path / 'run'}"),
        ]
    )
    result = start(config, ["dam", "train"])
    assert result.exit_code == 0
    assert (tmp_path / "run" / "report" / "report.md").exists()
