"""Tiny data sets written in the exact formats of the published ones, with plain numpy, pickle, Pillow and h5py."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from tfrecord_files import write_records


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, count, *shape]).integers(0, 256, (count, *shape), dtype=np.uint8)


def cifar100_labels(count: int) -> tuple[list[int], list[int]]:
    fine = [(7 * i) % 100 for i in range(count)]
    return fine, [f // 5 for f in fine]


def write_cifar100_python(root: Path, train: int = 60, test: int = 40) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, count, seed in (("train", train, 1), ("test", test, 2)):
        fine, coarse = cifar100_labels(count)
        content = {
            b"filenames": [f"bos_taurus_s_{i:06d}\xe4.png".encode("latin1") for i in range(count)],
            b"batch_label": b"training batch 1 of 1",
            b"fine_labels": fine,
            b"coarse_labels": coarse,
            b"data": noise(count, 3072, seed=seed),
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = {
        b"fine_label_names": [f"fine{i}".encode() for i in range(100)],
        b"coarse_label_names": [f"coarse{i}".encode() for i in range(20)],
    }
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    return folder


def write_cifar100_binary(root: Path, train: int = 60, test: int = 40) -> Path:
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, count, seed in (("train", train, 1), ("test", test, 2)):
        fine, coarse = (np.array(labels, np.uint8)[:, None] for labels in cifar100_labels(count))
        rows = np.concatenate([coarse, fine, noise(count, 3072, seed=seed)], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "fine_label_names.txt").write_text("".join(f"fine{i}\n" for i in range(100)))
    (folder / "coarse_label_names.txt").write_text("".join(f"coarse{i}\n" for i in range(20)))
    return folder


def write_stl10(root: Path, train: int = 20, test: int = 10) -> tuple[Path, np.ndarray]:
    """The folder and the training images as they should be read, uint8 (n, 96, 96, 3)."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    images = {}
    for name, count, seed in (("train", train, 3), ("test", test, 4)):
        images[name] = noise(count, 96, 96, 3, seed=seed)
        # image, row, column, channel -> image, channel, column, row
        (folder / f"{name}_X.bin").write_bytes(images[name].transpose(0, 3, 2, 1).tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(count)))
    names = "airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"
    (folder / "class_names.txt").write_text(names)
    return folder, images["train"]


def write_photo(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(1, 20, 30, 3, seed=seed)[0]).convert(mode).save(path)


def write_ddsm(root: Path, negatives: int = 20, side: int = 15, names: bool = True) -> Path:
    """Five nested shards and both npy parts: a shard has ``negatives`` normals and one of each finding."""
    for shard in range(5):
        codes = [0] * negatives + [1, 2, 3, 4]
        images = noise(len(codes), side * side, seed=10 + shard)
        rows = []
        for i, code in enumerate(codes):
            row: dict[str, list] = {"label": [code], "label_normal": [int(code != 0)], "image": [images[i].tobytes()]}
            if names:
                text = "NORMAL" if code == 0 else f"Mass-Training_P_{shard:05d}_LEFT_CC_{code}"
                row["filename"] = [text.encode("utf-32-le")]
            rows.append(row)
        write_records(root / f"training10_{shard}" / f"training10_{shard}.tfrecords", rows)
    for name, findings in (("cv10", (1, 3)), ("test10", (2, 4))):
        codes = np.array([0] * 6 + list(findings), np.int32)  # as numpy on Windows wrote it
        (root / f"{name}_data").mkdir()
        np.save(root / f"{name}_data" / f"{name}_data.npy", noise(len(codes), side, side, 1, seed=len(name)))
        np.save(root / f"{name}_labels.npy", codes)
    return root


def write_h5(path: Path, name: str, values: np.ndarray, **options: object) -> Path:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=values, **options)
    return path


def pcam_name(part: str, what: str) -> str:
    return f"camelyonpatch_level_2_split_{part}_{what}"


def write_pcam(root: Path, train: int = 24, others: int = 8, meta: bool = True) -> Path:
    for part, count in (("train", train), ("valid", others), ("test", others)):
        labels = np.arange(count) % 2
        write_h5(root / f"{pcam_name(part, 'x')}.h5", "x", noise(count, 96, 96, 3, seed=len(part)))
        write_h5(root / f"{pcam_name(part, 'y')}.h5", "y", labels.astype(np.uint8).reshape(count, 1, 1, 1))
        if meta:
            rows = [
                f"{i},10,20,{bool(label)},{bool(label)},camelyon16_{part}_{i // 2:03d}"
                for i, label in enumerate(labels)
            ]
            text = "\n".join([",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *rows]) + "\n"
            (root / f"{pcam_name(part, 'meta')}.csv").write_text(text)
    return root
