"""Every experiment file trains: two steps a stage on phantom pictures, or on a few files in its own data's layout."""

from __future__ import annotations

from pathlib import Path

import covidx_files
import melanoma_files
import pytest
import torch

from dam.compose import compose
from dam.config_files import choices
from dam.pretraining.run import start as pretrain
from dam.training.run import start

# Smallest images the network takes; everything else of the recipe stays.
SIZES = {"chexpert_swin": 56, "chexpert_davit": 64}
# Begin of an experiment's name -> writes its data set, small, in the real layout, below a folder.
OWN_DATA = {
    "covidx8b": covidx_files.many,
    "melanoma": lambda root: melanoma_files.deotte(root, melanoma_files.table(45)),
}


def data_words(name: str, root: Path) -> list[str]:
    for begin, write in OWN_DATA.items():
        if name.startswith(begin):
            # Thirty copies through 28 million weights would take minutes here.
            smaller = ["tta.copies=2", "model.name=tf_efficientnet_b0"] if name.startswith("melanoma") else []
            return [f"data.root={write(root)}", *smaller]
    phantom = ["data=phantom", "data.patients=60", "data.phantom_size=48"]
    if name.startswith("moco"):
        return [*phantom, "data.colour=rgb", "pretrain.queue=16", "pretrain.bn_groups=2"]
    several = not name.startswith("cifar10") and name != "csv_example"
    labels = "auc.labels=[Edema]" if several else "data.labels=[Edema]"
    return [*phantom, labels]


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiment_trains_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    config = compose(
        [
            *(f"+experiment={name}", *data_words(name, tmp_path / "data")),
            *("model.weights=null", f"image_size={SIZES.get(name, 32)}", "batch_size=8", "limit_batches=2"),
            *("device=cpu", "workers=0", f"run_dir={tmp_path / 'run'}"),
        ]
    )
    begin, left = (start, "report/report.md") if config.pretrain is None else (pretrain, "pretrain/best.safetensors")
    assert begin(config, ["dam", "train"]).exit_code == 0
    assert (tmp_path / "run" / left).exists()
