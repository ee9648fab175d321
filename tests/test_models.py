"""Backbones: only the head is drawn anew, weights load or say why not, patterns take what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_configs import model_config
from safetensors.torch import save_file

from dam.config import ModelConfig
from dam.errors import UserError
from dam.models.backbones import (
    build_model,
    check_name,
    head_names,
    keep_head,
    parameter_groups,
    redraw_head,
    weights_facts,
)
from dam.models.normalization import InputNormalization, input_statistics
from dam.training.device import Device
from dam.training.module import Network

FAMILIES = [
    ("resnet10t", 64),
    ("densenet121", 32),
    ("efficientnet_b0", 32),
    ("convnext_atto", 32),
    ("swin_tiny_patch4_window7_224", 56),
    ("davit_tiny", 64),
    ("vit_tiny_patch16_224", 32),
    ("resnet20_cifar_elu", 32),
    ("densenet121_elu", 32),
]


def cfg(name: str = "resnet20_cifar", **changes: Any) -> ModelConfig:
    return model_config(name, **changes)


CFG = cfg()


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_redraw_touches_only_the_head(name: str, size: int) -> None:
    model = build_model(cfg(name=name), 5, 1, size, seed=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    redraw_head(model, 1, seed=7)
    heads = set(head_names(model))
    after = model.state_dict()
    assert heads and heads < set(after)
    for key, value in after.items():
        if key not in heads:
            assert torch.equal(value, before[key]), key
    for key in heads:
        assert after[key].shape[0] == 1
    out = model.eval()(torch.zeros(2, 1, size, size))
    assert out.shape == (2, 1)
    assert float(out.detach().abs().max()) < 3, "a fresh head may not saturate the sigmoid"


def test_head_is_a_function_of_the_seed_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, third = (build_model(CFG, 2, 3, 32, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.linear.weight, third.linear.weight)


def test_keep_head_takes_the_labels_row() -> None:
    warm = build_model(CFG, 5, 3, 32, 0)
    state = {key: value.clone() for key, value in warm.state_dict().items()}
    images = torch.rand(4, 3, 32, 32)
    expected = warm.eval()(images)[:, 3:4]
    redraw_head(warm, 1, 9)
    keep_head(warm, state, [3])
    assert torch.allclose(warm.eval()(images), expected)


def test_keep_head_follows_a_permutation_of_all_labels() -> None:
    warm = build_model(CFG, 3, 3, 32, 0)
    state = {key: value.clone() for key, value in warm.state_dict().items()}
    keep_head(warm, state, [2, 0, 1])
    assert torch.equal(warm.linear.weight, state["linear.weight"][[2, 0, 1]])
    assert torch.equal(warm.linear.bias, state["linear.bias"][[2, 0, 1]])


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UserError, match="densenet121"):
        check_name("densnet121")
    with pytest.raises(UserError, match="no such pretrained tag"):
        check_name("resnet18.nonsense")


def test_local_weights_round_trip_and_the_stem_sums_channels(tmp_path) -> None:
    from safetensors.torch import save_file

    source = build_model(cfg(name="resnet10t"), 3, 3, 32, seed=1).eval()
    save_file({k: v.contiguous() for k, v in source.state_dict().items()}, tmp_path / "w.safetensors")
    gray = build_model(cfg(name="resnet10t", weights=str(tmp_path / "w.safetensors")), 1, 1, 32, seed=2).eval()
    image = torch.rand(2, 1, 32, 32)
    assert torch.allclose(gray.forward_features(image), source.forward_features(image.expand(2, 3, 32, 32)), atol=1e-5)


def test_foreign_and_malicious_weights_are_refused(tmp_path) -> None:
    torch.save({"state_dict": {"module.conv1.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="fits only"):
        build_model(cfg(weights=str(tmp_path / "other.pt")), 1, 3, 32, 0)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (marker.touch, ())

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="cannot be loaded safely"):
        build_model(cfg(weights=str(tmp_path / "evil.pt")), 1, 3, 32, 0)
    assert not marker.exists()
    with pytest.raises(UserError, match="there is no file"):
        build_model(cfg(weights="nowhere.pt"), 1, 3, 32, 0)


def test_parameter_groups_first_match_wins() -> None:
    model = build_model(CFG, 1, 3, 32, 0)
    groups, lines = parameter_groups(model, 0.1, cfg(freeze=["^conv1"], lr_scale={"layer1": 0.5, "layer": 0.25}))
    assert [g["initial_lr"] for g in groups] == [0.05, 0.025, 0.1]
    assert not model.conv1.weight.requires_grad
    assert sum(len(g["params"]) for g in groups) + 1 == len(list(model.parameters()))
    assert len(lines) == 3
    with pytest.raises(UserError, match="matches no parameter"):
        parameter_groups(model, 0.1, cfg(freeze=["nothing"]))
    with pytest.raises(UserError, match="regular expression"):
        parameter_groups(model, 0.1, cfg(freeze=["("]))


def test_normalization_equals_the_textbook_form() -> None:
    mean, std = input_statistics(cfg(mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.5]), 3)
    images = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    expected = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(InputNormalization(mean, std)(images), expected, atol=1e-5)
    gray_mean, gray_std = input_statistics(cfg(name="densenet121"), 1)
    assert gray_mean == pytest.approx([0.449]) and gray_std == pytest.approx([0.226])
    with pytest.raises(UserError, match="need 1 or 3"):
        input_statistics(cfg(mean=[0.5, 0.4], std=[0.2, 0.25]), 3)


def backbone_sha256(loaded: ModelConfig) -> str:
    facts = weights_facts(loaded, 32)
    assert facts is not None
    return str(facts["sha256"])


def test_the_digest_of_initial_weights_is_of_the_backbone_that_was_loaded(tmp_path: Path) -> None:
    drawn = cfg(name="resnet8_cifar")
    assert weights_facts(drawn, 32) is None
    source = build_model(drawn, 5, 3, 32, seed=3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    loaded = cfg(name="resnet8_cifar", weights=str(tmp_path / "w.safetensors"))
    before = backbone_sha256(loaded)
    save_file(build_model(drawn, 2, 3, 32, seed=3).state_dict(), tmp_path / "w.safetensors")
    assert backbone_sha256(loaded) == before  # another head, the same backbone
    save_file(build_model(drawn, 2, 3, 32, seed=4).state_dict(), tmp_path / "w.safetensors")
    assert backbone_sha256(loaded) != before


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "asked", "layout"),
    [
        ("resnet20_cifar", None, "channels_last"),
        ("resnet20_cifar", False, "contiguous"),
        ("vit_tiny_patch16_224", None, "contiguous"),
        ("vit_tiny_patch16_224", True, "channels_last"),
    ],
)
def test_images_lie_in_memory_as_the_model_does(name: str, asked: bool | None, layout: str, channels: int) -> None:
    """By their strides: with one channel ``is_contiguous`` holds of both layouts, and torch goes by the strides."""
    model = build_model(cfg(name), 1, channels, 32, 0)
    network = Network(
        model,
        InputNormalization([0.5] * channels, [0.2] * channels),
        Device(torch.device("cpu"), None, asked),
        compiled=False,
    )
    inputs = network.inputs(torch.randint(0, 256, (2, 32, 32, channels), dtype=torch.uint8))
    assert inputs.shape == (2, channels, 32, 32)
    per_row, per_channel = 32 * channels, 32 * 32
    expected = (1, per_row, channels) if layout == "channels_last" else (per_channel, 32, 1)
    assert inputs.stride()[1:] == expected
    weight = next(p for p in network.model.parameters() if p.dim() == 4 and p.shape[1] > 1) if channels > 1 else None
    if weight is not None:
        assert weight.is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
