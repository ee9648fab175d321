"""The arithmetic of PESG's step for w, a, b, twice: over lists of tensors, and plainly one tensor after the other.

Both take tensors of one device and type, their gradients, their states (``reference`` and ``displacement``, see
``displace``) and the options of their param group. Their results
are equal, with momentum up to rounding. bf16 and fp16 parameters are computed in float32
and rounded once a step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dam.objectives.batch import full_precision

State = dict[str, Any]
# The average of the iterates is kept as the sum of v - v_ref: small numbers, so that many steps lose no digits. v_ref
# is taken off once in so many steps, which spares most of a pass over the weights: between, the sum is too large by
# v_ref times the steps of the unfinished block.
BLOCK = 8
_LEAST_MOMENTUM = 1e-6  # the fused form divides by it
_FUSED = ("cpu", "cuda")  # where torch has momentum SGD as one pass


def descend_loop(params: list[Tensor], grads: list[Tensor], states: list[State], group: dict[str, Any]) -> None:
    """One step, tensor by tensor: the readable form that the other is tested against."""
    for p, gradient, state in zip(params, grads, states, strict=True):
        v, g = full_precision(p), full_precision(gradient)
        if group["clip"] is not None:
            g = g.clamp(-group["clip"], group["clip"])
        if _is_plain(group):
            _plain_loop(v, g, state["reference"], group)
            _write(p, v, state, group)
            continue
        d = (v - state["reference"]).mul_(group["gamma"]).add_(g)
        if group["weight_decay"] != 0:
            d.add_(v, alpha=group["weight_decay"])
        if group["mode"] == "adam":
            _adam_loop(v, d, state, group)
        else:
            v.add_(_momentum_loop(d, state, group), alpha=-group["lr"])
        _write(p, v, state, group)


def descend_foreach(params: list[Tensor], grads: list[Tensor], states: list[State], group: dict[str, Any]) -> None:
    """One step in few passes over all tensors."""
    v, g = _full_precision(params), _full_precision(grads)
    if group["clip"] is not None:
        g = list(torch._foreach_clamp_max(g, group["clip"]))
        torch._foreach_clamp_min_(g, -group["clip"])
    references = [state["reference"] for state in states]
    if _is_plain(group):
        _plain_foreach(v, g, references, group)
    elif group["mode"] == "sgd" and group["momentum"] > _LEAST_MOMENTUM and _is_fusable(v, g, states):
        _momentum_fused(v, g, states, group)
    else:
        d = list(torch._foreach_sub(v, references))
        torch._foreach_mul_(d, group["gamma"])
        torch._foreach_add_(d, g)
        if group["weight_decay"] != 0:
            torch._foreach_add_(d, v, alpha=group["weight_decay"])
        if group["mode"] == "adam":
            _adam_foreach(v, d, states, group)
        else:
            torch._foreach_add_(v, _momentum_foreach(d, states, group), alpha=-group["lr"])
    if v[0] is not params[0]:
        torch._foreach_copy_(params, v)
        v = _full_precision(params)
    displace(v, states, group["steps_since_reference"] + 1)


def _full_precision(tensors: list[Tensor]) -> list[Tensor]:
    """As ``full_precision``, of tensors of one type."""
    return tensors if full_precision(tensors[0]) is tensors[0] else [full_precision(tensor) for tensor in tensors]


def displace(v: list[Tensor], states: list[State], step: int) -> None:
    """Add these iterates to their running sums; ``step`` counts from 1 since the reference was set."""
    sums = [state["displacement"] for state in states]
    torch._foreach_add_(sums, v)
    if step % BLOCK == 0:
        torch._foreach_sub_(sums, [state["reference"] for state in states], alpha=BLOCK)


def _write(p: Tensor, v: Tensor, state: State, group: dict[str, Any]) -> None:
    if v is not p:
        p.copy_(v)
    displace([full_precision(p)], [state], group["steps_since_reference"] + 1)


def _is_plain(group: dict[str, Any]) -> bool:
    """Whether the step keeps no direction: then it is made in place, in two passes instead of four."""
    return bool(group["mode"] == "sgd" and group["momentum"] == 0)


def _plain_loop(v: Tensor, g: Tensor, reference: Tensor, group: dict[str, Any]) -> None:
    lr, pull, decay = group["lr"], group["lr"] * group["gamma"], group["lr"] * group["weight_decay"]
    if decay == 0:
        v.lerp_(reference, pull)  # exactly v where v is v_ref
    else:
        v.mul_(1 - pull - decay).add_(reference, alpha=pull)
    v.add_(g, alpha=-lr)


def _plain_foreach(v: list[Tensor], g: list[Tensor], references: list[Tensor], group: dict[str, Any]) -> None:
    lr, pull, decay = group["lr"], group["lr"] * group["gamma"], group["lr"] * group["weight_decay"]
    if decay == 0:
        torch._foreach_lerp_(v, references, pull)
    else:
        torch._foreach_mul_(v, 1 - pull - decay)
        torch._foreach_add_(v, references, alpha=pull)
    torch._foreach_add_(v, g, alpha=-lr)


def _momentum_loop(d: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    mu = group["momentum"]
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = d
        return d
    buffer: Tensor = state["momentum_buffer"]
    if group["variant"] == "libauc":
        return buffer.mul_(1 - mu).add_(d, alpha=mu)
    return buffer.mul_(mu).add_(d)


def _momentum_foreach(d: list[Tensor], states: list[State], group: dict[str, Any]) -> list[Tensor]:
    mu = group["momentum"]
    old = [i for i, state in enumerate(states) if "momentum_buffer" in state]
    if old:
        buffers, steps = [states[i]["momentum_buffer"] for i in old], [d[i] for i in old]
        average = group["variant"] == "libauc"
        torch._foreach_mul_(buffers, 1 - mu if average else mu)
        torch._foreach_add_(buffers, steps, alpha=mu if average else 1)
    for state, first in zip(states, d, strict=True):
        state.setdefault("momentum_buffer", first)
    return [state["momentum_buffer"] for state in states]


def _is_fusable(v: list[Tensor], g: list[Tensor], states: list[State]) -> bool:
    """Torch's fused kernel takes tensors as flat memory: all of a parameter must lie alike and without holes."""
    return v[0].device.type in _FUSED and all(
        p.stride() == gradient.stride() == state["reference"].stride()
        and ("momentum_buffer" not in state or p.stride() == state["momentum_buffer"].stride())
        and (p.is_contiguous() or p.is_contiguous(memory_format=torch.channels_last))
        for p, gradient, state in zip(v, g, states, strict=True)
    )


def _momentum_fused(v: list[Tensor], g: list[Tensor], states: list[State], group: dict[str, Any]) -> None:
    """As ``_momentum_loop`` in two passes in place: - gamma v_ref, then torch's SGD with a decay of lambda + gamma."""
    keep = damp = 1 - group["momentum"]
    if group["variant"] != "libauc":
        keep, damp = group["momentum"], 0.0
    for begun in (True, False):
        some = [i for i, state in enumerate(states) if ("momentum_buffer" in state) == begun]
        if not some:
            continue
        gradients, references = [g[i] for i in some], [states[i]["reference"] for i in some]
        if begun:  # off the buffer, so that the step's keep buf + (1 - damp) d has it: no memory is taken
            pull = group["gamma"] * (1 - damp) / keep
            torch._foreach_sub_([states[i]["momentum_buffer"] for i in some], references, alpha=pull)
        else:
            gradients = list(torch._foreach_sub(gradients, references, alpha=group["gamma"]))
            for i, first in zip(some, gradients, strict=True):
                # Overwritten by the direction. Of a size of 1 the new tensor has other strides in the same memory.
                states[i]["momentum_buffer"] = first.as_strided(v[i].shape, v[i].stride())
        torch._fused_sgd_(
            [v[i] for i in some],
            gradients,
            [states[i]["momentum_buffer"] for i in some],
            weight_decay=group["weight_decay"] + group["gamma"],
            momentum=keep,
            lr=group["lr"],
            dampening=damp,
            nesterov=False,
            maximize=False,
            is_first_step=not begun,
        )


def _begin_adam(like: Tensor, state: State) -> None:
    if "exp_avg" not in state:
        state.update(step=0, exp_avg=torch.zeros_like(like), exp_avg_sq=torch.zeros_like(like))
    state["step"] += 1


def _adam_scales(state: State, group: dict[str, Any]) -> tuple[float, float]:
    """Divisor of the root of the second moment, and the signed step size, of this state's step."""
    beta1, beta2 = group["betas"]
    return math.sqrt(1 - beta2 ** state["step"]), -group["lr"] / (1 - beta1 ** state["step"])


def _adam_loop(v: Tensor, d: Tensor, state: State, group: dict[str, Any]) -> None:
    _begin_adam(v, state)
    beta1, beta2 = group["betas"]
    root, size = _adam_scales(state, group)
    state["exp_avg"].mul_(beta1).add_(d, alpha=1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(d, d, value=1 - beta2)
    v.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().div_(root).add_(group["eps"]), value=size)


def _adam_foreach(v: list[Tensor], d: list[Tensor], states: list[State], group: dict[str, Any]) -> None:
    for like, state in zip(v, states, strict=True):
        _begin_adam(like, state)
    beta1, beta2 = group["betas"]
    scales = [_adam_scales(state, group) for state in states]
    first, second = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
    torch._foreach_mul_(first, beta1)
    torch._foreach_add_(first, d, alpha=1 - beta1)
    torch._foreach_mul_(second, beta2)
    torch._foreach_addcmul_(second, d, d, value=1 - beta2)
    roots = torch._foreach_sqrt(second)
    torch._foreach_div_(roots, [root for root, _ in scales])
    torch._foreach_add_(roots, group["eps"])
    torch._foreach_addcdiv_(v, first, roots, [size for _, size in scales])
