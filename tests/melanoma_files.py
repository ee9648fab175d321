"""SIIM-ISIC folders as Kaggle, the ISIC archive and C. Deotte give them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tfrecord_files import Feature, write_records

OFFICIAL = [
    "image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge", "diagnosis", "benign_malignant",
    "target",
]  # fmt: skip
DEOTTE = [*OFFICIAL, "tfrecord", "width", "height"]


def table(patients: int = 15, images: int = 2, groups: int = 15) -> pd.DataFrame:
    """Every fourth patient has a melanoma; the second image of patient 1 is a duplicate; blanks as in the real one."""
    rows = []
    for p in range(patients):
        for k in range(images):
            target = int(p % 4 == 0 and k == 0)
            rows.append(
                {
                    "image_name": f"ISIC_{1000 * p + k:07d}",
                    "patient_id": f"IP_{p:07d}",
                    "sex": ["male", "female", ""][min(p % 3, 2) if p < 6 else p % 2],
                    "age_approx": "" if p == 2 else f"{30 + 5 * (p % 10)}.0",
                    "anatom_site_general_challenge": ["torso", "head/neck", "", "palms/soles"][(p + k) % 4],
                    "diagnosis": "melanoma" if target else "unknown",
                    "benign_malignant": "malignant" if target else "benign",
                    "target": target,
                    "tfrecord": -1 if (p, k) == (1, 1) else p % groups,
                    "width": 6000,
                    "height": 4000,
                }
            )
    return pd.DataFrame(rows)


def picture(name: str, side: int = 16, height: int | None = None) -> np.ndarray:
    seed = int(name.removesuffix("_downsampled")[5:])
    return np.random.default_rng(seed).integers(0, 256, (height or side, side, 3), dtype=np.uint8)


def jpeg(name: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(name)).save(out, "JPEG", quality=95)
    return out.getvalue()


def decoded(name: str) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg(name))) as image:
        return np.asarray(image)


def save(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.jpg").write_bytes(jpeg(name))


def save_csv(path: Path, rows: pd.DataFrame, columns: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows[columns].to_csv(path, index=False)


def save_records(folder: Path, rows: pd.DataFrame, groups: Sequence[int]) -> None:
    """Deotte's records: JPEG bytes and label-encoded metadata, in which -1 stands for missing."""
    for group in sorted(set(groups)):
        part = rows[np.array(groups) == group]
        records: list[dict[str, Feature]] = [
            {
                "image": [jpeg(row.image_name)],
                "image_name": [row.image_name.encode()],
                "patient_id": [k],
                "sex": [-1 if row.sex == "" else int(row.sex == "male")],
                "age_approx": [-1 if row.age_approx == "" else int(float(row.age_approx))],
                "anatom_site_general_challenge": [-1],
                "target": [row.target],
            }
            for k, row in enumerate(part.itertuples())
        ]
        write_records(folder / f"train{group:02d}-{len(part)}.tfrec", records)  # type: ignore[arg-type]


def deotte(root: Path, rows: pd.DataFrame | None = None) -> Path:
    """jpeg-melanoma-SxS: train.csv with groups, train/."""
    rows = table() if rows is None else rows
    save_csv(root / "train.csv", rows, DEOTTE)
    save_csv(root / "test.csv", rows.assign(image_name=rows["image_name"] + "9"), OFFICIAL[:5])
    save(root / "train", rows["image_name"])
    save(root / "test", ["ISIC_9999999"])
    return root


def isic2019(root: Path, names: Sequence[str], records: bool = False) -> Path:
    """jpeg-isic2019-SxS or its TFRecords: patients -1, groups 0 .. 29, odd ones 1024 x 1024."""
    groups = [-3 if n == 0 else n % 30 for n in range(len(names))]
    rows = pd.DataFrame(
        {
            "image_name": names, "patient_id": -1, "sex": "female", "age_approx": "60.0",
            "anatom_site_general_challenge": ["anterior torso", "upper extremity"][: len(names)] * (len(names) // 2),
            "diagnosis": "NV", "benign_malignant": "benign", "target": [int(n % 3 == 0) for n in range(len(names))],
            "tfrecord": groups, "width": [1024 if g % 2 else 1022 for g in groups],
            "height": [1024 if g % 2 else 767 for g in groups],
        }
    )  # fmt: skip
    if records:
        kept = rows[rows["tfrecord"] >= 0]
        save_records(root, kept, kept["tfrecord"].tolist())
    else:
        save_csv(root / "train.csv", rows, DEOTTE)
        save(root / "train", names)
    return root
