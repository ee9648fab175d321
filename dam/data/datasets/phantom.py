"""Generated chest X-rays in CheXpert's exact layout: the quickstart's data and the tests' fixture.

Patients have a health, studies and views; each study has five findings of some amount, drawn as anatomy shows them
(``phantom_draw``). Findings are correlated and rare; training labels are noisy, uncertain near the limit of what counts
as disease, and mostly blank where negative, as a labeller of reports leaves them; the validation set is read by
"radiologists" without error. What is written is read back by the CheXpert reader.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from dam.config import PhantomConfig
from dam.data.datasets import FIVE, chexpert
from dam.data.datasets.phantom_draw import draw
from dam.data.table import ImageTable
from dam.errors import UserError

VERSION = 1  # raise it when a change here makes other pictures or tables
RELEASE = "CheXpert-v1.0-small"
MARKER = "phantom.json"
FIRST_VALID = 64541  # CheXpert's first patient of the validation set
COLUMNS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
Record = dict[Any, Any]
CLEAR_PATIENTS = 4  # so many patients a finding are positive beyond doubt, so that small sets have both classes


@dataclass(frozen=True)
class Finding:
    """How often a finding is true in each set, how it hangs on the patient's health, how visible it is."""

    train: float  # share of positive studies
    valid: float
    load: float  # correlation with the patient's health, 0 to 1
    base: float  # amount drawn at the limit of disease
    slope: float  # and for each standard deviation beyond it
    spread: float  # standard deviation of the amount that the hidden truth does not explain
    uncertain: float  # probability that a training label at the limit is -1


# Prevalences near CheXpert's (train: facts of the release; valid: 29, 19, 14, 34, 29 %).
FINDINGS: dict[str, Finding] = {
    "Cardiomegaly": Finding(0.14, 0.29, 0.50, 0.45, 0.50, 0.22, 0.25),
    "Edema": Finding(0.22, 0.21, 0.65, 0.42, 0.45, 0.30, 0.30),
    "Consolidation": Finding(0.13, 0.17, 0.35, 0.68, 0.45, 0.25, 0.35),
    "Atelectasis": Finding(0.18, 0.32, 0.35, 0.50, 0.45, 0.25, 0.50),
    "Pleural Effusion": Finding(0.32, 0.30, 0.60, 0.36, 0.42, 0.18, 0.20),
}


def read(cfg: PhantomConfig) -> ImageTable:
    """Generate the data set (once; later calls find it) and read it as CheXpert.

    It lies in ``data.root``, or, when that is null, in a folder of the image store's named after what it depends on.
    ``patients`` training patients, half as many in valid.csv. A function of patients, phantom_size, phantom_seed and
    label_noise only.
    """
    root = generate(cfg)
    table = chexpert.read(replace(cfg, root=str(root)))
    note = f"generated images (phantom {VERSION}, seed {cfg.phantom_seed}, {cfg.patients} training patients)"
    return replace(table, notes=(note, *table.notes))


def generate(cfg: PhantomConfig) -> Path:
    """Write the data set unless it is there; its folder. Raises ``UserError`` where ``data.root`` holds other files."""
    facts: Record = {
        "version": VERSION,
        "patients": cfg.patients,
        "phantom_size": cfg.phantom_size,
        "phantom_seed": cfg.phantom_seed,
        "label_noise": cfg.label_noise,
    }
    if cfg.root is not None:
        root = Path(cfg.root).expanduser()
    else:
        from dam.data.store import default_store_dir

        key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
        store = default_store_dir() if cfg.store is None else Path(cfg.store).expanduser()
        if any(folder.exists() and not folder.is_dir() for folder in (store, *store.parents)):
            raise UserError(f"data.store={store} is no folder: set data.store or $DAM_STORE to a folder of your own")
        root = store / "phantom" / key
    if _is_there(root, facts):
        return root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(
            f"data.root={root} holds other files than this phantom's: set data.root=null, or give a new folder."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(temporary, cfg)
        (temporary / MARKER).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        try:
            temporary.rename(root)
        except OSError:
            # Another process was faster; what it made is equal.
            if not _is_there(root, facts):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _is_there(root: Path, facts: Record) -> bool:
    try:
        return bool(json.loads((root / MARKER).read_text("utf-8")) == facts)
    except (OSError, ValueError):
        return False


def _write(folder: Path, cfg: PhantomConfig) -> None:
    release = folder / RELEASE
    for split, first, count in (("train", 1, cfg.patients), ("valid", FIRST_VALID, max(10, cfg.patients // 2))):
        generator = np.random.default_rng([cfg.phantom_seed, zlib.crc32(split.encode())])
        studies = _studies(generator, split, first, count)
        amounts, truth, labels = _findings(generator, studies, split, cfg.label_noise)
        rows = []
        for study, amount, true, label in zip(
            *(table.to_dict("records") for table in (studies, amounts, truth, labels)), strict=True
        ):
            for number, view in enumerate(study["views"].split(","), 1):
                path = f"{split}/patient{study['patient']:05d}/study{study['study']}/view{number}_{view}.jpg"
                patient = [cfg.phantom_seed, study["patient"]]
                body = np.random.default_rng([*patient, zlib.crc32(b"body")])
                shot = np.random.default_rng([*patient, study["study"], number])
                _write_jpeg(release / path, draw(cfg.phantom_size, view, amount, body, study["device"], shot))
                rows.append(_row(f"{RELEASE}/{path}", study, view, true, label))
        pd.DataFrame(rows).to_csv(release / f"{split}.csv", index=False, lineterminator="\n")


def _studies(generator: np.random.Generator, split: str, first: int, count: int) -> pd.DataFrame:
    """One row a study: patient, number, sex, age, projection, views, the patient's health, a device or not."""
    rows = []
    for patient in range(first, first + count):
        health = generator.standard_normal()
        sex = "Female" if generator.uniform() < 0.42 else "Male"
        age = int(np.clip(generator.normal(60 + 4 * health, 16), 18, 90))
        many = int(generator.choice([1, 2, 3, 4], p=[0.55, 0.27, 0.12, 0.06])) if split == "train" else 1
        for number in range(1, many + 1):
            ward = generator.uniform() < 0.78 + 0.08 * np.tanh(health)  # the sick are imaged in bed: AP
            views = "frontal"
            if generator.uniform() < (0.10 if ward else 0.35):
                views = "frontal,lateral"
            elif generator.uniform() < 0.03:
                views = "frontal,frontal"
            device = generator.uniform() < 0.4 + 0.15 * np.tanh(health)
            rows.append((patient, number, sex, age, "AP" if ward else "PA", views, health, device))
    return pd.DataFrame(rows, columns=["patient", "study", "sex", "age", "projection", "views", "health", "device"])


def _findings(
    generator: np.random.Generator, studies: pd.DataFrame, split: str, label_noise: float
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Amounts drawn, hidden truth, and labels as written (1, 0, -1, NaN), a column a finding and a row a study.

    A hidden score hangs on health, on the patient and on the study; above a limit the finding is true. The amount
    drawn follows the score with an error, so that pictures near the limit cannot tell.
    """
    n = len(studies)
    patient, _ = pd.factorize(studies["patient"])
    health = studies["health"].to_numpy()
    amounts, truth, labels = {}, {}, {}
    for name, finding in FINDINGS.items():
        own = generator.standard_normal(patient.max() + 1)[patient]
        rest = np.sqrt(1 - finding.load**2)
        score = finding.load * health + rest * (0.75 * own + np.sqrt(1 - 0.75**2) * generator.standard_normal(n))
        best = np.sort(pd.Series(score).groupby(patient).max().to_numpy())
        clear = best[-min(CLEAR_PATIENTS, len(best))]
        limit = min(np.quantile(score, 1 - (finding.train if split == "train" else finding.valid)), clear - 1e-6)
        excess = score - limit
        drawn = finding.base + finding.slope * excess + finding.spread * generator.standard_normal(n)
        true = excess > 0
        amounts[name] = np.clip(drawn, 0, 1.15)
        truth[name] = true
        labels[name] = true.astype(float)
        if split == "train":
            labels[name] = _told(generator, true, excess, score >= clear, finding, label_noise)
    return pd.DataFrame(amounts), pd.DataFrame(truth), pd.DataFrame(labels)


def _told(
    generator: np.random.Generator,
    true: np.ndarray,
    excess: np.ndarray,
    clear: np.ndarray,
    finding: Finding,
    label_noise: float,
) -> np.ndarray:
    """Training labels: a share of positives missed and as many negatives called positive, -1 near the limit, and most
    negatives not mentioned at all."""
    n = len(true)
    share = max(true.mean(), 1e-6)
    flip = generator.uniform(size=n) < np.where(true, label_noise, label_noise * share / max(1 - share, 1e-6))
    label = np.where(true ^ (flip & ~clear), 1.0, 0.0)
    unsure = generator.uniform(size=n) < finding.uncertain * np.exp(-((excess / 0.35) ** 2))
    silent = generator.uniform(size=n) < 0.8
    label[(label == 0) & silent] = np.nan
    label[unsure & ~clear] = -1.0
    return label


def _row(path: str, study: Record, view: str, truth: Record, labels: Record) -> Record:
    """A line of train.csv or valid.csv, columns in the release's order."""
    train = "/train/" in path
    absent = "" if train else "0.0"
    opacity = bool(truth["Edema"] or truth["Consolidation"] or truth["Atelectasis"])
    row: Record = {
        "Path": path,
        "Sex": study["sex"],
        "Age": study["age"],
        "Frontal/Lateral": view.capitalize(),
        "AP/PA": study["projection"] if view == "frontal" else "",
    }
    row |= dict.fromkeys(COLUMNS, absent)
    row["No Finding"] = absent if any(truth.values()) else "1.0"
    row["Lung Opacity"] = "1.0" if opacity else absent
    row["Support Devices"] = "1.0" if study["device"] else absent
    for name in FIVE:
        row[name] = "" if np.isnan(labels[name]) else f"{labels[name]:.1f}"
    return row


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not done:
        raise OSError(f"cv2 could not encode {path}")
    path.write_bytes(encoded.tobytes())
