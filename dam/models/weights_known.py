"""What input a checkpoint was trained on: a register of published families, by how their files look.

A backbone that is given another kind of input works badly until training has repaired it. Where the family is known,
``model.mean``, ``model.std`` and ``model.normalization`` follow it, unless the config sets them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dam.config import ModelConfig
from dam.errors import UserError
from dam.models.normalization import HISTOGRAM, network_statistics
from dam.models.weights_layouts import Layout
from dam.models.weights_shapes import Look

_MOCO_CXR_FILES = re.compile(r"(mnn|r8w|r5w|d1w)-0")
_MOCO_CXR_QUEUE = 24_576
_CLASSES = 1000
_TXRV_LABELS = 18


@dataclass(frozen=True)
class Expected:
    """The input of a family: where the knowledge is from, and config values; ``mean`` None is the network's own."""

    source: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalization: str = "mean_std"
    trained_on: str = ""

    @property
    def words(self) -> str:
        """For reading: what the network expects."""
        if self.normalization == HISTOGRAM:
            what = "gray images, histogram-equalized to 0..255 (model.normalization=histogram_255)"
        elif self.mean is None or self.std is None:
            what = "the network's own mean and standard deviation (model.mean=null)"
        else:
            mean, std = (",".join(f"{v:.8g}" for v in values) for values in (self.mean, self.std))
            what = f"model.mean=[{mean}] model.std=[{std}]"
        return f"{what}, as {self.source}" + (f", trained on {self.trained_on}" if self.trained_on else "")


@dataclass(frozen=True)
class _Evidence:
    layout: Layout
    prefix: str
    look: Look | None

    def tensor(self, name: str) -> Tensor | None:
        return self.layout.state.get(self.prefix + name)

    @property
    def file(self) -> str:
        return self.layout.content.path.name

    @property
    def head_rows(self) -> int:
        """Outputs of a linear head, 0 without one."""
        for name in ("classifier.weight", "fc.weight", "head.weight", "head.fc.weight"):
            tensor = self.tensor(name)
            if tensor is not None and tensor.ndim == 2:
                return int(tensor.shape[0])
        return 0

    @property
    def stem_channels(self) -> int:
        for name in ("features.conv0.weight", "conv1.weight", "patch_embed.proj.weight"):
            tensor = self.tensor(name)
            if tensor is not None and tensor.ndim == 4:
                return int(tensor.shape[1])
        return 0


def _is_covid_prognosis(evidence: _Evidence) -> bool:
    linear_head = evidence.tensor("classifier.weight") is not None
    is_densenet121 = evidence.look is not None and evidence.look.name == "densenet121"
    return evidence.prefix == "model.encoder_q." and linear_head and is_densenet121


def _is_moco_cxr(evidence: _Evidence) -> bool:
    if "model_state" in evidence.layout.where and "ckpt_info" in evidence.layout.keys:
        return True
    queue = evidence.layout.state.get(evidence.prefix.removesuffix("encoder_q.") + "queue")
    wide = queue is not None and queue.ndim == 2 and queue.shape[1] == _MOCO_CXR_QUEUE
    return evidence.prefix == "module.encoder_q." and (wide or bool(_MOCO_CXR_FILES.match(evidence.file)))


def _is_torchxrayvision(evidence: _Evidence) -> bool:
    named = any(name.startswith("torchxrayvision.") for name in evidence.layout.content.stood_in)
    marked = named or evidence.tensor("op_threshs") is not None or evidence.head_rows == _TXRV_LABELS
    return marked and evidence.stem_channels == 1


def _is_imagenet(evidence: _Evidence) -> bool:
    return evidence.head_rows == _CLASSES and evidence.stem_channels == 3


FAMILIES: tuple[tuple[Callable[[_Evidence], bool], Expected], ...] = (
    (_is_covid_prognosis, Expected("CovidPrognosis' MoCo", normalization=HISTOGRAM, trained_on="MIMIC-CXR/CheXpert")),
    (_is_moco_cxr, Expected("MoCo-CXR", (0.5020,), (0.085585,), trained_on="CheXpert")),
    (_is_torchxrayvision, Expected("torchxrayvision ([-1024, 1024])", (0.5,), (1 / 2048,), trained_on="chest X-rays")),
    (_is_imagenet, Expected("a network with ImageNet's 1,000 classes")),
)


def expected_input(layout: Layout, prefix: str, look: Look | None) -> Expected | None:
    """The input of the family that the file belongs to, None where it does not say."""
    if layout.content.run is not None:
        return _of_run(layout.content.run)
    evidence = _Evidence(layout, prefix, look)
    return next((expected for holds, expected in FAMILIES if holds(evidence)), None)


def run_model(run: Path) -> dict[str, Any]:
    """The ``model`` node of a run's config.yaml, {} where it cannot be read (of a run of another version)."""
    import yaml

    try:
        tree = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    node = tree.get("model") if isinstance(tree, dict) else None
    return node if isinstance(node, dict) else {}


def _of_run(run: Path) -> Expected | None:
    node = run_model(run)
    if not node:
        return None
    normalization = HISTOGRAM if node.get("normalization") == HISTOGRAM else "mean_std"
    if node.get("mean") is None:
        return Expected("that run", normalization=normalization)
    try:
        mean, std = (tuple(float(value) for value in node[key]) for key in ("mean", "std"))
    except (TypeError, ValueError, KeyError):
        raise UserError(f"{run}/config.yaml is damaged: its model.mean and model.std are no lists of numbers") from None
    return Expected("that run", mean, std, normalization)


# ---------------------------------------------------------------- against the config


def resolved(cfg: ModelConfig, expected: Expected | None) -> ModelConfig:
    """``cfg`` with ``normalization`` decided, and mean and std of the family where the config leaves them open."""
    if cfg.normalization != "auto":
        return cfg
    if expected is None or cfg.mean is not None:
        return replace(cfg, normalization="mean_std")
    normalization: Any = expected.normalization
    if expected.mean is None or expected.std is None:
        return replace(cfg, normalization=normalization)
    return replace(cfg, normalization=normalization, mean=list(expected.mean), std=list(expected.std))


def difference(cfg: ModelConfig, expected: Expected | None) -> str | None:
    """A sentence where the config gives the network another input than its weights were trained on."""
    if expected is None or cfg.normalization == "auto":
        return None
    ours, theirs = cfg.normalization, expected.normalization
    if ours == theirs == HISTOGRAM:
        return None
    if ours == theirs:
        own = network_statistics(cfg.name)
        configured = own if cfg.mean is None or cfg.std is None else (list(cfg.mean), list(cfg.std))
        wanted = own if expected.mean is None or expected.std is None else (expected.mean, expected.std)
        if all(_close(a, b) for a, b in zip(configured, wanted, strict=True)):
            return None
    return f"the config's input differs from that of the weights, which expect {expected.words}"


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    if len(a) != len(b):  # one for all channels: gray images take the mean over the network's own
        a, b = [sum(a) / len(a)], [sum(b) / len(b)]
    return all(abs(x - y) <= 0.01 * max(abs(x), abs(y)) for x, y in zip(a, b, strict=True))
