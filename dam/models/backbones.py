"""Any timm network with a head of our own: creation, weights to begin with, head replacement, parameter groups.

timm is imported inside functions: it takes seconds, and a name can be checked only with it.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from dam.config import ModelConfig
from dam.errors import UserError
from dam.models.weights_fit import Report, load_file, open_weights
from dam.models.weights_known import difference, resolved

log = logging.getLogger("dam")


def check_name(name: str) -> None:
    """Raise ``UserError`` with the nearest names if timm (with our own networks) does not know ``name``."""
    timm = _timm()
    architecture = name.split(".", maxsplit=1)[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UserError(f"model.name={name}: timm has no such model{hint}. `dam list models` shows all")
    if "." in name and name not in timm.list_pretrained(f"{architecture}.*"):
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise UserError(f"model.name={name}: no such pretrained tag of {architecture}; known: {tags}")


def build_model(cfg: ModelConfig, outputs: int, in_chans: int, image_size: int, seed: int) -> nn.Module:
    """A network of ``outputs`` logits for images (N, in_chans, image_size, image_size).

    The backbone is created without a head and the head drawn by ``reset_classifier``: ``create_model`` would draw
    EfficientNet's with a standard deviation (.58) that saturates a sigmoid. Initial values are a function of ``seed``.
    Weights come from timm (``weights=timm``), from a local file or run (the log then says what was loaded), or are
    drawn. Raises ``UserError``.
    """
    model, report = _begun(cfg, in_chans, image_size, seed)
    redraw_head(model, outputs, seed)
    for line in report.lines() if report else ():
        log.info("weights: %s", line)
    unlike = difference(cfg, report.expected) if report else None
    if unlike:
        log.info("weights: attention: %s", unlike)
    return model


def _begun(cfg: ModelConfig, in_chans: int, image_size: int, seed: int) -> tuple[nn.Module, Report | None]:
    """The network without a head, with the weights it begins with, and what came of their file if there is one."""
    check_name(cfg.name)
    timm = _timm()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; what failed is said below
    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans}
    if cfg.drop_rate:
        options["drop_rate"] = cfg.drop_rate
    if cfg.drop_path_rate:
        options["drop_path_rate"] = cfg.drop_path_rate
    pretrained_cfg = timm.get_pretrained_cfg(cfg.name)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size:
        options["img_size"] = image_size
    with seeded(seed):
        try:
            model: nn.Module = timm.create_model(cfg.name, pretrained=cfg.weights == "timm", **options)
        except TypeError as error:
            raise UserError(
                f"model.name={cfg.name} does not take these settings ({error}); set them back to 0"
            ) from error
        except (AssertionError, ValueError) as error:
            raise UserError(f"model.name={cfg.name} does not fit image_size={image_size}: {error}") from error
        except (OSError, RuntimeError, ImportError) as error:
            raise UserError(
                f"the pretrained weights of {cfg.name} could not be fetched ({_first_line(error)}); go on without them "
                "by model.weights=null, or give a local file by model.weights=PATH"
            ) from error
    return model, load_file(model, cfg.weights, in_chans) if _is_file(cfg.weights) else None


def _is_file(weights: str | None) -> TypeGuard[str]:
    return weights not in (None, "timm")


def with_input(cfg: ModelConfig) -> ModelConfig:
    """``cfg`` with ``normalization=auto`` decided: the input that a weights file of a known family was trained on.

    Mean and standard deviation of that family are filled in where the config has none. Raises ``UserError`` for a file
    that cannot be read.
    """
    if cfg.normalization == "auto" and cfg.mean is None and _is_file(cfg.weights):
        return resolved(cfg, open_weights(cfg.weights).expected)
    return resolved(cfg, None)


def weights_facts(cfg: ModelConfig, image_size: int) -> dict[str, Any] | None:
    """For environment.json: what training begins with, None where all is drawn.

    ``from`` the config's word; ``sha256`` of the backbone over names, shapes and float32 values in the order of names,
    the head left out, three input channels; of a file also its own sha256, layout, prefix, and what was left out.
    """
    if cfg.weights is None:
        return None
    model, report = _begun(cfg, 3, image_size, 0)
    redraw_head(model, 1, 0)
    heads = set(head_names(model))
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name not in heads:
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.float().contiguous().numpy().tobytes())
    return {"from": cfg.weights, "sha256": digest.hexdigest(), **(report.as_facts() if report else {})}


def fit_report(name: str, weights: str, in_chans: int, image_size: int) -> Report:
    """What ``model.weights=WEIGHTS`` would give the network ``name``, without training. Raises ``UserError``."""
    cfg = ModelConfig(name, weights, 0.0, 0.0, None, None, "auto", [], {})
    report = _begun(cfg, in_chans, image_size, 0)[1]
    assert report is not None
    return report


def check_model(cfg: ModelConfig, image_size: int) -> None:
    """Build the network without its weights, group its parameters and run one image. Raises ``UserError``."""
    model = build_model(replace(cfg, weights=None), 1, 3, image_size, 0)
    parameter_groups(model, 1.0, cfg)
    try:
        with torch.inference_mode():
            model.eval()
            model.forward_head(model.forward_features(torch.zeros(1, 3, image_size, image_size)))  # type: ignore[operator]
    except Exception as error:  # whatever a network says of a size or a form it cannot take
        raise UserError(
            f"model.name={cfg.name} cannot be used at image_size={image_size} ({_first_line(error)}); try another "
            "size, or another network"
        ) from error


def redraw_head(model: nn.Module, outputs: int, seed: int) -> None:
    """Give ``model`` a new head of ``outputs`` logits, drawn from ``seed``; no other tensor changes."""
    with seeded(seed + 1):
        model.reset_classifier(outputs)  # type: ignore[operator]


def head_names(model: nn.Module) -> list[str]:
    """Names of the head's parameters, as in ``model.named_parameters()``; several heads if the network has them."""
    heads = model.get_classifier()  # type: ignore[operator]
    heads = heads if isinstance(heads, (tuple, list)) else (heads,)
    owned = {id(p) for head in heads for p in head.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in owned]


def keep_head(model: nn.Module, state: dict[str, Tensor], rows: list[int]) -> None:
    """Copy the rows ``rows`` (labels) of the head in ``state`` into the head of ``model`` (len(rows) outputs)."""
    own = dict(model.named_parameters())
    heads = head_names(model)
    outputs = state[next(name for name in heads if name.endswith("bias"))].shape[0]
    with torch.no_grad():
        for name in heads:
            source = state[name]
            # Weight (K, features) and bias (K,) are cut by label; anything else of a head is shared by the labels.
            own[name].copy_(source[rows] if source.shape[0] == outputs else source)


def parameter_groups(model: nn.Module, lr: float, cfg: ModelConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """Optimizer groups by ``model.freeze`` and ``model.lr_scale``, and a line a pattern that says what it took.

    Patterns are regular expressions searched in parameter names; the first that matches wins. Frozen parameters get
    ``requires_grad=False`` and are in no group. Raises ``UserError`` for a pattern that matches nothing.
    """
    taken: dict[str, list[tuple[str, nn.Parameter]]] = {p: [] for p in [*cfg.freeze, *cfg.lr_scale, ""]}
    patterns = [(p, _regex(p)) for p in [*cfg.freeze, *cfg.lr_scale]]
    for name, parameter in model.named_parameters():
        first = next((p for p, regex in patterns if regex.search(name)), "")
        parameter.requires_grad_(first not in cfg.freeze)
        taken[first].append((name, parameter))
    lines, groups = [], []
    for pattern, members in taken.items():
        if pattern and not members:
            sample = ", ".join(name for name, _ in list(model.named_parameters())[:4])
            raise UserError(f"the pattern {pattern!r} of model.freeze/lr_scale matches no parameter (such as {sample})")
        scale = cfg.lr_scale.get(pattern, 1.0)
        frozen = pattern in cfg.freeze
        if pattern:
            lines.append(f"{pattern!r}: {len(members)} tensors {'frozen' if frozen else f'at {scale:g} x lr'}")
        if members and not frozen:
            groups.append({"params": [p for _, p in members], "lr": lr * scale, "initial_lr": lr * scale})
    if not groups:
        raise UserError("model.freeze leaves no parameter to train")
    return groups, lines


def is_convolutional(model: nn.Module) -> bool:
    """Whether most of the weights belong to convolutions with a spatial extent (channels_last pays there)."""
    spatial = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
    return spatial * 2 > sum(p.numel() for p in model.parameters())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with torch's CPU generator at ``seed`` and put its state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _timm() -> Any:
    import timm

    import dam.models.resnet_cifar  # noqa: F401  registers our networks

    return timm


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"model.freeze/lr_scale: {pattern!r} is no regular expression ({error})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
