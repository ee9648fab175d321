"""Checkpoints of every known layout: each backbone tensor equal, features equal to torchvision's, the rest left out."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from weight_files import LAYOUTS, OLD_DENSENETS, backbone, head_of, moco_v2

from dam.errors import UserError
from dam.models.weights_fit import Report, load_file, open_weights

TORCHVISION = {
    "resnet18": torchvision.models.resnet18,
    "resnet50": torchvision.models.resnet50,
    "densenet121": torchvision.models.densenet121,
}
# The other layouts of DenseNets differ in nothing but names that the ResNets have tried.
DENSE = ("MoCo v1", "MoCo-CXR", "CovidPrognosis", "LibAUC Trainer", "lightly, numbered")
CASES = [
    *(("resnet18", layout) for layout in LAYOUTS),
    *(pytest.param("densenet121", layout, marks=[pytest.mark.slow] * (layout not in DENSE)) for layout in LAYOUTS),
    *(("densenet121", layout) for layout in OLD_DENSENETS),
    pytest.param("resnet50", "MoCo v2", marks=pytest.mark.slow),
]


@cache
def source(name: str) -> nn.Module:
    """A torchvision network with trained-looking BatchNorm statistics, in evaluation mode."""
    torch.manual_seed(len(name))
    net = TORCHVISION[name]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    return net.eval()


@cache
def _empty(name: str, in_chans: int) -> nn.Module:
    return timm.create_model(name, num_classes=0, in_chans=in_chans)


def loaded(path: Path | str, name: str, in_chans: int = 3) -> tuple[nn.Module, Report]:
    """A timm network whose every tensor was -1, after the file."""
    model = copy.deepcopy(_empty(name, in_chans)).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(-1)
    return model, load_file(model, str(path), in_chans)


def features(net: nn.Module, images: Tensor) -> Tensor:
    headless = copy.deepcopy(net)
    setattr(headless, "fc" if hasattr(headless, "fc") else "classifier", nn.Identity())
    with torch.inference_mode():
        answer: Tensor = headless(images)
    return answer


def saved(tmp_path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, tmp_path / "w.pth.tar", **options)
    return tmp_path / "w.pth.tar"


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_every_backbone_tensor_and_the_features_are_those_of_the_source(name: str, layout: str, tmp_path: Path) -> None:
    net = source(name)
    state = net.state_dict()
    content = {**LAYOUTS, **OLD_DENSENETS}[layout](state)
    path = saved(tmp_path, content, _use_new_zipfile_serialization="CXR" not in layout)  # the files of 2020 are older
    model, report = loaded(path, name)
    own = model.state_dict()
    assert set(own) == set(backbone(state))
    for key, tensor in own.items():
        counted = key.endswith("num_batches_tracked") and layout == "old densenet"
        assert torch.equal(tensor, torch.zeros_like(tensor) if counted else state[key]), key
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert float((model(images) - features(net, images)).abs().max()) == 0.0
    assert (report.loaded, report.total, report.drawn) == (len(own), len(own), ())
    assert len(set(report.left_out)) == len(report.left_out)
    assert not [key for key in report.left_out if key in own]
    if name == "densenet121":
        opened = open_weights(str(path))
        assert (opened.name, opened.prefix) == (name, report.prefix)


def test_what_is_left_out_and_newly_drawn_is_told(tmp_path: Path) -> None:
    state = source("resnet18").state_dict()
    _, report = loaded(saved(tmp_path, moco_v2(state)), "resnet18")
    first, drawn, left_out = report.lines()[:3]
    assert (
        first.startswith("120 of 120 backbone tensors") and "MoCo v1/v2; state_dict, under 'module.encoder_q.'" in first
    )
    assert drawn == "newly drawn: the head"
    heads = "fc.0.weight, fc.0.bias, fc.2.weight, fc.2.bias"
    assert left_out == f"left out: 130: {heads}, module.encoder_k.* (124), module.queue, module.queue_ptr"
    assert report.as_facts()["prefix"] == "module.encoder_q." and report.as_facts()["epoch"] == 800


def test_a_wrong_prefix_and_the_key_encoder_by_name(tmp_path: Path) -> None:
    state = source("resnet18").state_dict()
    path = saved(tmp_path, moco_v2(state))
    with pytest.raises(UserError, match=r"no tensor whose name begins with 'encoder\.'; it has 'module\.encoder_q\.'"):
        loaded(f"{path}::encoder", "resnet18")
    model, report = loaded(f"{path}::module.encoder_k", "resnet18")  # asked for by name, it is taken
    assert report.prefix == "module.encoder_k."
    assert torch.equal(model.state_dict()["bn1.weight"], state["bn1.weight"] + 1)
    twins = {**{f"left.{k}": v for k, v in state.items()}, **{f"right.{k}": v for k, v in state.items()}}
    torch.save(twins, path)
    with pytest.raises(
        UserError, match=r"holds 2 networks of this kind; choose one: model.weights=.*::left or .*::right"
    ):
        loaded(path, "resnet18")
    assert loaded(f"{path}::right", "resnet18")[1].prefix == "right."


def test_a_preferred_name_must_be_a_whole_part(tmp_path: Path) -> None:
    state = backbone(source("resnet18").state_dict())
    momentum_only = {
        **{f"backbone_momentum.{k}": v for k, v in state.items()},
        **{f"net.{k}": v for k, v in state.items()},
    }
    assert loaded(saved(tmp_path, momentum_only), "resnet18")[1].prefix == "net."


@pytest.mark.parametrize(
    ("file", "network", "likeness"),
    [
        ("densenet169", "densenet121", "looks like densenet169 (blocks 6-12-32-32, growth 32, 1664 features)"),
        ("resnet34", "resnet18", "looks like resnet34 (basic blocks 3-4-6-3"),
        ("resnet18", "resnet34", "looks like resnet18 (basic blocks 2-2-2-2"),
        ("resnet18", "densenet121", "looks like resnet18"),
        ("mobilenet_v3_small", "resnet18", "looks like another kind of network"),
    ],
)
def test_a_file_of_another_network_is_refused_and_named(file: str, network: str, likeness: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = getattr(torchvision.models, file)().state_dict()
    path = saved(tmp_path, {name: torch.ones(t.shape, dtype=t.dtype) for name, t in shapes.items()})
    with pytest.raises(UserError) as refused:
        loaded(path, network)
    assert likeness in str(refused.value)
    assert ("fits only" in str(refused.value)) != (file == "resnet34")  # a deeper network has all of a smaller one's
    if likeness.startswith("looks like resnet") or "densenet169" in likeness:
        assert f"take it with model.name={file}" in str(refused.value)


def test_a_run_says_which_network_it_is(tmp_path: Path) -> None:
    """timm's resnet10t is a ResNet that the shapes do not name."""
    (tmp_path / "pretrain").mkdir()
    state = {name: tensor.contiguous() for name, tensor in _empty("resnet10t", 3).state_dict().items()}
    save_file(state, tmp_path / "pretrain" / "best.safetensors")
    (tmp_path / "config.yaml").write_text("model: {name: resnet10t}")
    with pytest.raises(UserError, match=r"looks like a ResNet .*; take it with model\.name=resnet10t"):
        loaded(tmp_path, "resnet18")


def test_under_nine_tenths_is_refused_and_over_is_told(tmp_path: Path) -> None:
    state = backbone(source("resnet18").state_dict())
    path = saved(tmp_path, {name: t for name, t in state.items() if not name.startswith("layer4.1.")})
    _, report = loaded(path, "resnet18")
    assert report.loaded == 108 and len(report.drawn) == 12
    assert "newly drawn: the head, layer4.1.conv1.weight" in report.lines()[1] and "and 6 more" in report.lines()[1]
    torch.save({name: t for name, t in state.items() if not name.startswith("layer4.")}, path)
    with pytest.raises(UserError, match="fits only 75% of the 120 backbone tensors of resnet18"):
        loaded(path, "resnet18")


# ---------------------------------------------------------------- stems


def test_three_channels_become_one_by_their_sum(tmp_path: Path) -> None:
    net = source("resnet18")
    model, report = loaded(saved(tmp_path, net.state_dict()), "resnet18", in_chans=1)
    gray = torch.rand(2, 1, 64, 64)
    expected = features(net, gray.expand(2, 3, 64, 64))
    with torch.inference_mode():
        assert torch.allclose(model(gray), expected, atol=1e-4)
    assert torch.equal(model.state_dict()["conv1.weight"], net.state_dict()["conv1.weight"].sum(1, keepdim=True))
    assert report.notes == ("the first convolution (conv1.weight) was adapted from 3 to 1 channel(s): summed over its "
                            "channels",)  # fmt: skip


def test_one_channel_becomes_three_by_thirds_and_two_by_halves(tmp_path: Path) -> None:
    state = dict(source("resnet18").state_dict())
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    path = saved(tmp_path, state)
    for channels in (2, 3):
        model, report = loaded(path, "resnet18", in_chans=channels)
        stem = model.state_dict()["conv1.weight"]
        assert torch.allclose(stem, state["conv1.weight"].expand(-1, channels, -1, -1) / channels, atol=1e-7)
        assert f"repeated and scaled by 1/{channels}" in report.notes[0]


def test_more_channels_by_timms_rule(tmp_path: Path) -> None:
    weight = source("resnet18").state_dict()["conv1.weight"]
    model, _ = loaded(saved(tmp_path, source("resnet18").state_dict()), "resnet18", in_chans=4)
    expected = torch.cat([weight, weight[:, :1]], dim=1) * 0.75
    assert torch.allclose(model.state_dict()["conv1.weight"], expected, atol=1e-7)


# ---------------------------------------------------------------- ViT


def vit_state(size: int) -> dict[str, Tensor]:
    torch.manual_seed(3)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size)
    nn.init.normal_(net.pos_embed)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("layout", ["DINO", "MAE", "MoCo v3"])
def test_vision_transformers(layout: str, tmp_path: Path) -> None:
    state = vit_state(64)
    other = {name: tensor + 1 for name, tensor in state.items()}
    student = {f"module.backbone.{k}": v for k, v in other.items()}
    content: dict[str, Any] = {
        "DINO": {"student": student, "teacher": {**{f"backbone.{k}": v for k, v in state.items()},
                                                 "head.mlp.0.weight": torch.zeros(2, 2)}, "epoch": 1},
        "MAE": {"model": {**state, "mask_token": torch.zeros(1, 1, 192), "decoder_blocks.0.norm1.weight": torch.ones(8),
                          "decoder_embed.weight": torch.zeros(8, 192), "decoder_pos_embed": torch.zeros(1, 17, 8)}},
        "MoCo v3": {"state_dict": {**{f"module.base_encoder.{k}": v for k, v in state.items()},
                                   **{f"module.momentum_encoder.{k}": v for k, v in other.items()},
                                   "module.base_encoder.head.0.weight": torch.zeros(8, 192)}},
    }[layout]  # fmt: skip
    path = saved(tmp_path, content)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval()
    report = load_file(model, str(path), 3)
    assert report.layout == layout and report.loaded == report.total == len(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert open_weights(str(path)).name == "vit_tiny_patch16_224"


def test_position_embeddings_of_another_size_are_interpolated_and_told(tmp_path: Path) -> None:
    from timm.layers.pos_embed import resample_abs_pos_embed

    state = vit_state(64)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=96)
    report = load_file(model, str(saved(tmp_path, state)), 3)
    expected = resample_abs_pos_embed(state["pos_embed"], [6, 6], [4, 4], num_prefix_tokens=1)
    assert torch.equal(model.pos_embed.detach(), expected)
    assert "interpolated from 4 x 4 to 6 x 6 patches" in report.notes[0] and report.loaded == report.total


# ---------------------------------------------------------------- numbers


def test_metadata_without_counters_is_no_trap(tmp_path: Path) -> None:
    state = source("resnet18").state_dict()  # an OrderedDict with `_metadata` of version 2, which torch.load keeps
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]
    path = saved(tmp_path, state)
    assert hasattr(torch.load(path, weights_only=True), "_metadata")
    model, report = loaded(path, "resnet18")
    assert report.loaded == 120 and "20 num_batches_tracked, which the file lacks, were set to 0" in report.notes
    assert int(model.state_dict()["bn1.num_batches_tracked"]) == 0


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in source("resnet18").state_dict().items()}
    model, report = loaded(saved(tmp_path, state), "resnet18")
    assert model.state_dict()["conv1.weight"].dtype == torch.float32
    assert torch.equal(model.state_dict()["conv1.weight"], state["conv1.weight"].float())
    assert "float16 was turned into float32" in report.notes


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in source("resnet18").state_dict().items()}
    model, report = loaded(saved(tmp_path, state), "resnet18")
    assert torch.equal(model.state_dict()["bn1.running_var"], state["bn1.running_var"].float())
    assert f"{str(dtype)[6:]} was turned into float32" in report.notes


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("layer1.0.conv1.weight", float("nan"), "NaN or infinite numbers in 1 tensors (e.g. layer1.0.conv1.weight)"),
        ("layer3.0.bn1.bias", float("inf"), "NaN or infinite numbers in 1 tensors (e.g. layer3.0.bn1.bias)"),
        ("bn1.running_var", -0.5, "running variances that are not above 0 in 1 layers (e.g. bn1.running_var)"),
    ],
)
def test_numbers_that_no_network_can_use_are_refused(name: str, value: float, says: str, tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in source("resnet18").state_dict().items()}
    state[name].view(-1)[0] = value
    with pytest.raises(UserError) as refused:
        loaded(saved(tmp_path, state), "resnet18")
    assert says in str(refused.value)


def test_a_layer_of_zero_variances_is_refused_a_silent_channel_is_told(tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in source("resnet18").state_dict().items()}
    state["bn1.running_var"][3] = 0
    assert "1 channels have a running variance of 0" in loaded(saved(tmp_path, state), "resnet18")[1].notes[0]
    state["bn1.running_var"][:] = 0
    with pytest.raises(UserError, match="not above 0"):
        loaded(saved(tmp_path, state), "resnet18")


def test_a_tensor_that_claims_more_than_it_holds_is_not_loaded(tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in source("resnet18").state_dict().items()}
    big = state["layer4.1.conv2.weight"]
    state["layer4.1.conv2.weight"] = torch.zeros(1).expand(big.shape)
    _, report = loaded(saved(tmp_path, state), "resnet18")
    assert report.drawn == ("layer4.1.conv2.weight",)
    state["layer4.1.conv2.weight"] = big.to("meta")
    assert loaded(saved(tmp_path, state), "resnet18")[1].drawn == ("layer4.1.conv2.weight",)


# ---------------------------------------------------------------- safetensors


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    state = backbone(source("resnet18").state_dict())
    for name in ("w.safetensors", "w.bin"):
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / name)
        assert loaded(tmp_path / name, "resnet18")[1].loaded == 120


def test_the_head_is_known_by_its_name(tmp_path: Path) -> None:
    for name in ("resnet18", "densenet121"):
        state = source(name).state_dict()
        _, report = loaded(saved(tmp_path, state), name)
        assert report.left_out == (f"{head_of(state)}.weight", f"{head_of(state)}.bias")
