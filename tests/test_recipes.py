"""The recipes of the benchmarks, DDSM+ and PatchCamelyon train two steps on their own data in the exact format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from dataset_files import write_cifar100_binary, write_ddsm, write_pcam, write_photo, write_stl10

from dam.compose import compose
from dam.report import plots
from dam.training.run import start


def photos(root: Path) -> None:
    for i in range(60):
        write_photo(root / "train" / f"cat.{i}.jpg", i)
        write_photo(root / "train" / f"dog.{i}.jpg", 100 + i)


def pcam(root: Path) -> None:
    pytest.importorskip("h5py")
    write_pcam(root, train=60, others=20)


RECIPES: dict[str, Callable[[Path], object]] = {
    "cifar100_resnet20": lambda root: write_cifar100_binary(root, 100, 40),
    "stl10_resnet20": lambda root: write_stl10(root, 80, 20),
    "cats_dogs_resnet20": photos,
    "ddsm_densenet121": lambda root: write_ddsm(root, negatives=12),
    "pcam_densenet121": pcam,
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_on_its_own_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("DAM_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(plots, "draw_all", lambda *_: [])  # figures have tests of their own
    (tmp_path / "data").mkdir()
    RECIPES[name](tmp_path / "data")
    thin = [] if name.startswith("ddsm") else ["data.imratio=0.25"]  # 1 % of so few images is nothing
    small = [*thin, "data.val_fraction=0.3", "image_size=32", "batch_size=8", "limit_batches=2", "model.weights=null"]
    if name.endswith("densenet121"):
        small.append("model.name=resnet8_cifar")
    config = compose(
        [f"+experiment={name}", f"data.root={tmp_path / 'data'}", *small, "device=cpu", f"run_dir={tmp_path / 'run'}"]
    )
    assert start(config, ["dam", "train"]).exit_code == 0
    run = tmp_path / "run"
    assert (run / "predictions" / "test.csv").exists()
    rows = pd.read_csv(run / "predictions" / "images.csv")
    counts = rows["split"].value_counts()  # every row of the run, those that were kept for training among them
    assert set(counts.index) == {"train", "val", "test"} and counts["train"] > counts["val"]
    if name.startswith(("ddsm", "pcam")):
        assert (run / "warm_start" / "last.safetensors").exists()  # what the second part began from
