"""PESG: proximal epoch stochastic gradient, the min-max optimizer of the AUC margin loss.

Source: Algorithm 1 of DAM (Yuan et al., ICCV 2021, arXiv 2012.03173), from Guo, Yan, Yuan, Yang, arXiv 2006.06889.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dam.objectives.batch import full_precision
from dam.objectives.pesg_steps import BLOCK, State, descend_foreach, descend_loop, displace

# Elements whose few passes stay in the cache of a CPU core; a GPU takes all tensors in one launch.
_CPU_ELEMENTS = 262_144
_LIBAUC_CLIP = 1.0
_LIBAUC_ALPHA_MAX = 999.0
_Part = tuple[Tensor, Tensor, State]  # a parameter, its gradient, its state


class PESG(Optimizer):
    """Proximal epoch stochastic gradient descent-ascent for AUC losses with learned a, b, alpha.

    With v = (w, a, b), eta the learning rate, lambda the weight decay, one step is::

        v     <- v - eta (grad_v F(v, alpha) + gamma (v - v_ref)) - lambda eta v
        alpha <- [alpha + eta grad_alpha F(v, alpha)]_+        both gradients at the old (v, alpha)

    and ``update_reference`` sets v_ref to the average of the iterates since the last such moment (each after its
    step, the starting point excluded). v_ref starts at the point where the optimizer first steps. AUC-S has no
    projection of alpha. Every option may differ between param groups; a, b and alpha live in groups of their own
    (``role`` "means" and "dual"), whose ``lr`` a schedule changes like any other. Schedules write ``group["lr"]``.

    Args:
        params: the model's parameters, tensors or param groups. Those of ``loss`` among them are left out here.
        loss: owner of the parameters ``a``, ``b``, ``alpha``, and of ``margin`` and ``alpha_nonnegative`` (True if it
            has none). With ``inner="batch"`` they are no parameters: only w is trained, proximally, with no ascent.
        lr: eta > 0 (0 is accepted).
        gamma: strength of the pull towards v_ref, >= 0 (1/500 and the like in the papers).
        weight_decay: lambda >= 0.
        momentum: in [0, 1), mode "sgd" only. variant "paper": heavy ball, buf <- momentum buf + d. variant
            "libauc": an average, buf <- (1 - momentum) buf + momentum d.
        clip: each element of the gradient of w, a, b is kept in [-clip, clip]; None for no clipping (variant
            "libauc": 1.0).
        mode: step of w, a, b: "sgd", or "adam", which is Adam's step (betas .9, .999, eps 1e-8; groups may set
            ``betas`` and ``eps``) on the gradient with both pulls added. alpha always ascends plainly.
        variant: "paper" is the above. "libauc" makes the iterates of LibAUC 2.0.1 from the same v_ref: its momentum,
            its clip, and alpha <- alpha + eta (2 (m + b - a) - 2 alpha) with the new a, b, kept in [0, 999]. Its
            random v_ref from N(0, 0.01^2) is not reproduced; ``set_reference`` can set any.
        foreach: tensors in groups instead of one by one; the results are the same (with momentum up to rounding).

    Raises:
        ValueError: options out of range, no parameters, or a loss without a, b, alpha (cross-entropy, say).
        RuntimeError: sparse gradients.
    """

    def __init__(  # noqa: PLR0913, PLR0917  (the optimizer's published signature)
        self,
        params: Iterable[Any],
        loss: nn.Module,
        lr: float,
        gamma: float,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        clip: float | None = None,
        mode: Literal["sgd", "adam"] = "sgd",
        variant: Literal["paper", "libauc"] = "paper",
        *,
        foreach: bool = True,
    ) -> None:
        if clip is None and variant == "libauc":
            clip = _LIBAUC_CLIP
        options = {
            "lr": lr,
            "gamma": gamma,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "clip": clip,
            "mode": mode,
            "variant": variant,
            "foreach": foreach,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "role": "model",
            "steps_since_reference": 0,
        }
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of tensors or of param groups, not one tensor")
        own = _loss_groups(loss)
        groups = _model_groups(params, own)
        if not isinstance(groups[0]["params"][0], tuple):
            own = [{**group, "params": [p for _, p in group["params"]]} for group in own]
        for group in [*groups, *own]:
            _check({**options, **group})
        super().__init__([*groups, *own], options)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of Algorithm 1; ``closure`` computes the loss and its gradients anew, and its value is returned.

        A parameter without a gradient keeps its value (and counts with it in the reference average).
        """
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            if group["role"] != "dual":
                self._descend(group)
        self._ascend()
        return value

    @torch.no_grad()
    def update_reference(self) -> None:
        """Set v_ref to the average of the iterates since the last call and start a new average.

        Nothing happens when there was no step since.
        """
        for group in self.param_groups:
            steps = group["steps_since_reference"]
            if steps == 0:
                continue
            for p in group["params"]:
                if "reference" in self.state.get(p, {}):
                    state = self.state[p]
                    state["displacement"].sub_(state["reference"], alpha=steps % BLOCK)
                    state["reference"].add_(state["displacement"], alpha=1 / steps)
                    state["displacement"].zero_()
            group["steps_since_reference"] = 0

    @torch.no_grad()
    def reference(self) -> list[Tensor]:
        """Copy of v_ref: one tensor for each model parameter in the order given, then a and b (float32 for bf16).

        Parameters that have not been stepped yet have their present value as their reference.
        """
        return [
            self.state[p]["reference"].clone() if "reference" in self.state.get(p, {}) else _copy(p)
            for p in self._primal()
        ]

    @torch.no_grad()
    def set_reference(self, values: Sequence[Tensor] | None = None) -> None:
        """Set v_ref (tensors as ``reference`` returns them; None: the present point) and start a new average.

        Raises:
            ValueError: another number of tensors or other shapes than the parameters have.
        """
        primal = list(self._primal())
        values = primal if values is None else list(values)
        if [value.shape for value in values] != [p.shape for p in primal]:
            raise ValueError(f"v_ref needs {len(primal)} tensors shaped like the model's parameters, then a and b")
        for p, value in zip(primal, values, strict=True):
            self._begin(p, 0)
            self.state[p]["reference"].copy_(value)
            self.state[p]["displacement"].zero_()
        for group in self.param_groups:
            group["steps_since_reference"] = 0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` saved, bit for bit."""
        super().load_state_dict(state_dict)
        # torch casts state to the type of its parameter, which would round the float32 state of bf16 parameters.
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        here = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, p in zip(saved, here, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.detach().to(device=p.device, copy=True)

    def _primal(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            if group["role"] != "dual":
                yield from group["params"]

    def _begin(self, p: Tensor, steps: int) -> None:
        """State of a parameter that was where it is for the ``steps`` made since the reference was set."""
        if "reference" not in self.state[p]:
            reference = _copy(p)
            self.state[p].update(reference=reference, displacement=reference * (steps % BLOCK))

    def _descend(self, group: dict[str, Any]) -> None:
        active: list[_Part] = []
        for p in group["params"]:
            gradient, state = p.grad, self.state.get(p, {})  # looked up once: a network has hundreds of tensors
            if gradient is None:
                if "reference" in state:
                    displace([full_precision(p)], [state], group["steps_since_reference"] + 1)
                continue
            if gradient.is_sparse:
                raise RuntimeError("PESG does not take sparse gradients")
            if "reference" not in state:
                self._begin(p, group["steps_since_reference"])
                state = self.state[p]
            active.append((p, gradient, state))
        descend = descend_foreach if group["foreach"] else descend_loop
        for chunk in _chunks(active):
            params, gradients, states = map(list, zip(*chunk, strict=True))
            descend(params, gradients, states, group)
        group["steps_since_reference"] += 1

    def _ascend(self) -> None:
        means: list[Tensor] = next((group["params"] for group in self.param_groups if group["role"] == "means"), [])
        for group in self.param_groups:
            if group["role"] != "dual":
                continue
            (alpha,) = group["params"]
            if alpha.grad is None:
                continue
            nonnegative = group["nonnegative"]
            if group["variant"] == "libauc":
                a, b = means
                alpha.add_(2 * (group["margin"] + b - a) - 2 * alpha, alpha=group["lr"])
                alpha.clamp_(0.0 if nonnegative else -_LIBAUC_ALPHA_MAX, _LIBAUC_ALPHA_MAX)
            else:
                alpha.add_(alpha.grad, alpha=group["lr"])
                if nonnegative:
                    alpha.clamp_min_(0)


def _copy(p: Tensor) -> Tensor:
    return full_precision(p.detach()).clone(memory_format=torch.preserve_format)


def _chunks(parts: list[_Part]) -> Iterator[list[_Part]]:
    """Tensors of one device and type together; on a CPU no more at once than its cache holds."""
    alike: dict[tuple[torch.device, torch.dtype], list[_Part]] = defaultdict(list)
    for part in parts:
        alike[part[0].device, part[0].dtype].append(part)
    for (device, _), members in alike.items():
        limit = _CPU_ELEMENTS if device.type == "cpu" else math.inf
        chunk: list[_Part] = []
        elements = 0
        for part in members:
            size = part[0].numel()
            if chunk and elements + size > limit:
                yield chunk
                chunk, elements = [], 0
            chunk.append(part)
            elements += size
        yield chunk


def _loss_groups(loss: nn.Module) -> list[dict[str, Any]]:
    """Groups of a, b and of alpha as (name, tensor); none if the loss computes them itself (``inner="batch"``)."""
    values = [getattr(loss, name, None) for name in ("a", "b", "alpha")]
    if not all(isinstance(value, Tensor) for value in values):
        raise ValueError(
            f"PESG minimizes over a, b and maximizes over alpha, which {type(loss).__name__} does not have: "
            "use it with AUCMarginLoss or AUCSquareLoss, and adam, adamw or sgd for other losses"
        )
    if not all(isinstance(value, nn.Parameter) for value in values):
        return []
    a, b, alpha = values
    dual = {
        "margin": float(getattr(loss, "margin", 1.0)),
        "nonnegative": bool(getattr(loss, "alpha_nonnegative", True)),
    }
    return [
        {"params": [("loss.a", a), ("loss.b", b)], "role": "means"},
        {"params": [("loss.alpha", alpha)], "role": "dual", **dual},
    ]


def _model_groups(params: Iterable[Any], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Param groups of the model (tensors or (name, tensor) pairs) without the tensors of ``own``."""
    items = list(params)
    groups = items if items and isinstance(items[0], dict) else [{"params": items}]
    excluded = {id(p) for group in own for _, p in group["params"]}
    found = []
    for group in groups:
        members = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        kept = [member for member in members if id(member[1] if isinstance(member, tuple) else member) not in excluded]
        if kept:
            found.append({**group, "params": kept, "role": "model"})
    if not found:
        raise ValueError("PESG got no parameters of a model")
    return found


def _check(options: dict[str, Any]) -> None:
    for name in ("lr", "gamma", "weight_decay"):
        if not options[name] >= 0:
            raise ValueError(f"{name} must be at least 0, not {options[name]}")
    if not 0 <= options["momentum"] < 1:
        raise ValueError(f"momentum must lie in [0, 1), not {options['momentum']}")
    if options["clip"] is not None and not options["clip"] > 0:
        raise ValueError(f"clip must be positive or None, not {options['clip']}")
    for name, allowed in (("mode", ("sgd", "adam")), ("variant", ("paper", "libauc"))):
        if options[name] not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {options[name]!r}")
