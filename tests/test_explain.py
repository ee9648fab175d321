"""Overlays: maps against closed forms, every family of networks, and what the command writes."""

from __future__ import annotations

import builtins
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from predict_runs import test_images, train
from tiny import tiny
from torch import nn

pytest.importorskip("pytorch_grad_cam")

from dam import cli
from dam.errors import UserError
from dam.inference.explain import overlay
from dam.inference.explain_maps import GRAD_CAM, ROLLOUT, Maps, rolled_out
from dam.training.device import Device
from dam.training.module import Network
from dam.training.networks import bare_network

CPU = Device(torch.device("cpu"), None, None)


def network(name: str, size: int, outputs: int = 2) -> Network:
    cfg = tiny("unused", f"model.name={name}", f"image_size={size}")
    return bare_network(cfg, CPU, 1, outputs, None).eval()


class Linear(nn.Module):
    """Feature maps are the image's quarters; output k is the mean of feature map k times a weight."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels, 1 - pixels], 1) * self.gain

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        means = features.mean((2, 3))
        return torch.stack([means[:, 0], means[:, 1], -means[:, 0] - means[:, 1]], 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(pixels))


class Unit(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 3, 1, 2).float() / 255


def test_grad_cam_of_a_linear_network_is_the_feature_map() -> None:
    maps = Maps(Network(Linear(), Unit(), CPU, compiled=False), 8, 1)
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 2, 5], image[0, 6, 1] = 255, 51
    bright, dark, none = (maps(image, output)[0] for output in range(3))
    expected = image[0, ..., 0] / 255
    np.testing.assert_allclose(bright, expected, atol=1e-5)
    np.testing.assert_allclose(dark, 1 - expected, atol=1e-5)
    assert not none.any()  # nothing raises that output
    assert maps.method == GRAD_CAM and maps.grid == (8, 8)


def test_rollout_of_known_attention() -> None:
    class Known:
        num_prefix_tokens, global_pool = 1, "token"
        patch_embed = type("P", (), {"grid_size": (1, 2)})

    first = torch.tensor([[[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]])
    second = torch.tensor([[[0.6, 0.1, 0.3], [0.2, 0.2, 0.6], [0.5, 0.4, 0.1]]])
    one, two = (0.5 * layer[0] + 0.5 * torch.eye(3) for layer in (first, second))
    np.testing.assert_allclose(rolled_out([first, second], Known())[0, 0], (two @ one)[0, 1:], atol=1e-6)
    Known.global_pool = "avg"
    np.testing.assert_allclose(rolled_out([first, second], Known())[0, 0], (two @ one)[1:, 1:].mean(0), atol=1e-6)
    with pytest.raises(UserError, match="other patches in other layers"):
        rolled_out([first, second[:, :2, :2]], Known())


@pytest.mark.parametrize(
    ("name", "size", "method"),
    [
        ("resnet8_cifar", 32, GRAD_CAM),
        ("convnext_atto", 64, GRAD_CAM),
        ("vit_tiny_patch16_224", 64, ROLLOUT),
        ("swin_tiny_patch4_window7_224", 64, GRAD_CAM),
    ],
)
def test_families_of_networks(name: str, size: int, method: str) -> None:
    if "swin" in name:
        import timm.models.swin_transformer  # noqa: F401
    net = network(name, size)
    maps = Maps(net, size, 1)
    images = np.random.default_rng(0).integers(0, 255, (2, size, size, 1), dtype=np.uint8)
    before = {key: value.clone() for key, value in net.model.state_dict().items()}
    found = maps(images, 1)
    assert maps.method == method
    assert found.shape == (2, size, size) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1 + 1e-6
    alone = maps(images[1:], 1)
    np.testing.assert_allclose(alone[0], found[1], atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in net.model.state_dict().items())
    assert all(p.grad is None for p in net.model.parameters())


def test_a_network_without_either_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be explained"):
        Maps(network("mixer_s32_224", 224), 224, 1)


def test_overlay_leaves_cold_places_as_they_are() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    found = overlay(image, heat)
    assert (found[1:] == 100).all() and (found[0, 0] != 100).any()


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("bare"), bare=True)


def index(folder: Path) -> list[dict[str, str]]:
    with open(folder / "explain.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_overlays(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, names = test_images(run)
    words = ["predict", str(run), *(str(root / name) for name in names[:4]), "--out", str(tmp_path / "p.csv")]
    assert cli.main([*words, "--explain", "--explain-max", "3", "--explain-label", "Edema"]) == 0
    folder = tmp_path / "p_explain"
    rows = index(folder)
    assert [row["image"] for row in rows] == [str(root / name) for name in names[:3]]
    assert {row["label"] for row in rows} == {"Edema"} and {row["method"] for row in rows} == {GRAD_CAM}
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        table = {(row["image"], row["label"]): row for row in csv.DictReader(file)}
    for row in rows:
        assert row["score"] == table[row["image"], "Edema"]["auc"]
        with Image.open(folder / row["file"]) as picture:
            assert picture.size == (640, 346) and picture.format == "PNG"
    (folder / "mine.png").write_bytes(b"")
    assert cli.main([*words, f"--explain={folder}", "--explain-max", "1", "--model", "blend"]) == 0
    assert sorted(p.name for p in folder.iterdir()) == sorted(["explain.csv", "mine.png", index(folder)[0]["file"]])
    assert "overlays show the networks of auc, since blend has none of its own" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--explain", "--explain-label", "Pneumonia"], "trained on Cardiomegaly, Edema"),
        (["--explain=file"], "is a file"),
        (["--explain", "--explain-max", "0"], "--explain-max 0"),
    ],
)
def test_mistakes_come_before_anything_is_scored(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    root, names = test_images(run)
    assert cli.main(["predict", str(run), str(root / names[0]), "--out", "p.csv", *words]) == 2
    assert told in capsys.readouterr().err and not Path("p.csv").exists()


def test_without_the_extra_one_sentence_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pytorch_grad_cam"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert cli.main(["predict", str(run), "x.png", "--out", "p.csv", "--explain"]) == 2
    assert 'pip install "dam[explain]"' in capsys.readouterr().err
