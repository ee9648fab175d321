from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from data_configs import data_config

from dam.data import load_table
from dam.data.datasets import FIVE
from dam.data.datasets.phantom import COLUMNS, RELEASE, generate, read
from dam.data.datasets.phantom_draw import draw
from dam.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(
        data_config("phantom", root=str(tmp_path_factory.mktemp("p") / "data"), patients=150, phantom_size=48)
    )


def picture(seed: int = 0, view: str = "frontal", **amounts: float) -> np.ndarray:
    told = {name: amounts.get(name.replace(" ", "_"), 0.0) for name in FIVE}
    return draw(96, view, told, np.random.default_rng(seed), False, np.random.default_rng([seed, 1])).astype(float)


def change(region: tuple[slice, slice], **amounts: float) -> float:
    """Mean change in gray values of a region over the whole image's, by a finding, over 20 patients."""
    inside, outside = [], []
    for seed in range(20):
        difference = picture(seed, **amounts) - picture(seed)
        inside.append(difference[region].mean())
        outside.append(difference.mean())
    return float(np.mean(inside) - np.mean(outside))


LEFT_HEART = (slice(52, 72), slice(62, 74))
ANGLES = (slice(68, 80), slice(12, 30))
HILA = (slice(38, 52), slice(26, 40))


def test_findings_are_where_anatomy_puts_them() -> None:
    assert change(LEFT_HEART, Cardiomegaly=1.0) > 10
    assert change(ANGLES, Pleural_Effusion=1.0) > 8
    assert change(HILA, Edema=1.0) > 8
    assert change((slice(24, 70), slice(12, 84)), Consolidation=1.0) > 1
    assert change((slice(50, 80), slice(16, 84)), Atelectasis=1.0) > 1


@pytest.mark.parametrize("view", ["frontal", "lateral"])
def test_every_finding_shows_in_every_view(view: str) -> None:
    for name in FIVE:
        assert np.abs(picture(3, view, **{name.replace(" ", "_"): 1.0}) - picture(3, view)).max() > 25


def test_the_layout_is_chexperts(root: Path) -> None:
    train = pd.read_csv(root / RELEASE / "train.csv")
    valid = pd.read_csv(root / RELEASE / "valid.csv")
    assert train.columns.tolist() == ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *COLUMNS]
    assert train["Path"].str.fullmatch(rf"{RELEASE}/train/patient\d{{5}}/study\d/view\d_(frontal|lateral)\.jpg").all()
    assert set(np.unique(valid[list(FIVE)])) == {0.0, 1.0}
    assert (train[list(FIVE)] == -1).any().all() and train[list(FIVE)].isna().any().all()
    assert train["Frontal/Lateral"].value_counts()["Frontal"] > train["Frontal/Lateral"].value_counts()["Lateral"] > 0
    image = cv2.imread(str(root / train["Path"].iloc[0]), cv2.IMREAD_UNCHANGED)
    assert image.shape == (48, 48) and image.dtype == np.uint8


def test_the_table_is_ready_for_training(root: Path) -> None:
    table = load_table(data_config("phantom", root=str(root), patients=150, phantom_size=48))
    assert table.labels == FIVE and table.name == "phantom"
    counts = table.counts()
    assert (counts["positives"] > 0).all() and (counts["negatives"] > counts["positives"]).all()
    assert table.frame["patient"].nunique() == 150 + 75


def test_findings_go_together(root: Path) -> None:
    values = pd.read_csv(root / RELEASE / "valid.csv")[list(FIVE)]
    assert values["Edema"].corr(values["Pleural Effusion"]) > 0.1


def test_generation_is_a_function_of_its_keys(tmp_path: Path) -> None:
    def digest(name: str, **keys: object) -> str:
        folder = generate(data_config("phantom", root=str(tmp_path / name), patients=20, phantom_size=32, **keys))
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "phantom.json")
        return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()

    first = digest("a")
    assert digest("b") == first
    assert digest("c", phantom_seed=1) != first
    assert digest("d", label_noise=0.2) != first


def test_it_is_kept_in_the_store_and_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAM_STORE", str(tmp_path))
    cfg = data_config("phantom", patients=20, phantom_size=32)
    folder = generate(cfg)
    assert folder.parent == tmp_path / "phantom"
    assert json.loads((folder / "phantom.json").read_text())["patients"] == 20
    stamp = (folder / RELEASE / "train.csv").stat().st_mtime_ns
    assert generate(cfg) == folder and (folder / RELEASE / "train.csv").stat().st_mtime_ns == stamp
    assert [p.name for p in (tmp_path / "phantom").iterdir()] == [folder.name]
    assert read(cfg).root == folder


def test_a_folder_of_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="holds other files than this phantom's"):
        generate(data_config("phantom", root=str(tmp_path), patients=20))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("seed", range(4))
def test_the_smallest_sets_have_both_classes_everywhere(tmp_path: Path, seed: int) -> None:
    cfg = data_config("phantom", root=str(tmp_path / "p"), patients=20, phantom_size=32, phantom_seed=seed)
    counts = load_table(cfg).counts()
    assert (counts["positives"] > 0).all() and (counts["negatives"] > 0).all()


def test_the_quickstarts_set_has_enough_positives(tmp_path: Path) -> None:
    cfg = data_config("phantom", root=str(tmp_path / "p"), phantom_size=32)
    table = load_table(cfg)
    judged = table.counts().query("split != 'train'")
    assert (judged["positives"] >= 30).all()
