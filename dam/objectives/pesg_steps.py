"""The arithmetic of PESG's step for w, a, b, twice: over lists of tensors, and plainly one tensor after the other.

Both take tensors of one device and type, their gradients, their states (``reference`` and ``displacement``, which is
the sum of v - v_ref over the steps since the reference was set) and the options of their param group. They do the
same operations in the same order, so that their results are equal. bf16 and fp16 parameters are computed in float32
and rounded once a step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dam.objectives.batch import full_precision

State = dict[str, Any]


def descend_loop(params: list[Tensor], grads: list[Tensor], states: list[State], group: dict[str, Any]) -> None:
    """One step, tensor by tensor: the readable form that the other is tested against."""
    for p, gradient, state in zip(params, grads, states, strict=True):
        v, g = full_precision(p), full_precision(gradient)
        if group["clip"] is not None:
            g = g.clamp(-group["clip"], group["clip"])
        d = (v - state["reference"]).mul_(group["gamma"]).add_(g)
        if group["weight_decay"] != 0:
            d.add_(v, alpha=group["weight_decay"])
        if group["mode"] == "adam":
            _adam_loop(v, d, state, group)
        else:
            v.add_(_momentum_loop(d, state, group), alpha=-group["lr"])
        if v is not p:
            p.copy_(v)
        displace([full_precision(p)], [state])


def descend_foreach(params: list[Tensor], grads: list[Tensor], states: list[State], group: dict[str, Any]) -> None:
    """One step in few passes over all tensors."""
    v = [full_precision(p) for p in params]
    g: list[Tensor] | tuple[Tensor, ...] = [full_precision(gradient) for gradient in grads]
    if group["clip"] is not None:
        g = torch._foreach_clamp_max(g, group["clip"])
        torch._foreach_clamp_min_(g, -group["clip"])
    d = list(torch._foreach_sub(v, [state["reference"] for state in states]))
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
        v = [full_precision(p) for p in params]
    displace(v, states)


def displace(v: list[Tensor], states: list[State]) -> None:
    """Add v - v_ref of these iterates to their running sums."""
    sums = [state["displacement"] for state in states]
    torch._foreach_add_(sums, v)  # two passes in place: a temporary as large as the weights costs more in page faults
    torch._foreach_sub_(sums, [state["reference"] for state in states])


def _momentum_loop(d: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    mu = group["momentum"]
    if mu == 0:
        return d
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = d
        return d
    buffer: Tensor = state["momentum_buffer"]
    if group["variant"] == "libauc":
        return buffer.mul_(1 - mu).add_(d, alpha=mu)
    return buffer.mul_(mu).add_(d)


def _momentum_foreach(d: list[Tensor], states: list[State], group: dict[str, Any]) -> list[Tensor]:
    mu = group["momentum"]
    if mu == 0:
        return d
    old = [i for i, state in enumerate(states) if "momentum_buffer" in state]
    if old:
        buffers, steps = [states[i]["momentum_buffer"] for i in old], [d[i] for i in old]
        average = group["variant"] == "libauc"
        torch._foreach_mul_(buffers, 1 - mu if average else mu)
        torch._foreach_add_(buffers, steps, alpha=mu if average else 1)
    for state, first in zip(states, d, strict=True):
        state.setdefault("momentum_buffer", first)
    return [state["momentum_buffer"] for state in states]


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
