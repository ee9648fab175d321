"""What the processes of a data-parallel run hold alike: gradients, BatchNorm statistics, and the proof of it.

With one process every function here does nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dam.training.distributed import gathered, rank, world

_BUCKET_BYTES = 25 * 2**20
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ProcessesDiffer(RuntimeError):
    """What must be equal in all processes is not: their training has gone different ways."""


def step_seed(seed: int, name: str, step: int) -> int:
    """Of dropout and stochastic depth. Each process draws masks of its own, the first those of a single process."""
    words = [seed, zlib.crc32(name.encode()), step, *([rank()] if rank() else [])]
    state = np.random.SeedSequence(words).generate_state(2)
    return int(state[0]) << 31 | int(state[1]) >> 1


class GradientMean:
    """The mean over the processes of the gradients of ``module``, exchanged in buckets while backward goes on.

    Unlike torch's DistributedDataParallel, which rearranges its buckets after the first step, it sums in the same order
    at every step and after every resume: three or more numbers in another order have another sum.
    """

    def __init__(self, module: nn.Module) -> None:
        self._buckets: list[list[nn.Parameter]] = []
        self._place: dict[nn.Parameter, int] = {}
        self._missing: list[int] | None = None  # a bucket, while the last pass is under way
        self._sent: list[tuple[Tensor, list[Tensor], Any]] = []
        if world() == 1:
            return
        room = -1
        for parameter in reversed([p for p in module.parameters() if p.requires_grad]):  # about as backward meets them
            room -= parameter.numel() * parameter.element_size()
            if room < 0 or parameter.dtype != self._buckets[-1][0].dtype:
                self._buckets.append([])
                room = _BUCKET_BYTES
            self._buckets[-1].append(parameter)
            self._place[parameter] = len(self._buckets) - 1
            parameter.register_post_accumulate_grad_hook(self._ready)  # type: ignore[no-untyped-call]

    def last_pass(self) -> None:
        """The next backward pass is the last before ``finish``: what it has done with may be sent."""
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Put the means in place of the gradients."""
        while len(self._sent) < len(self._buckets):  # a parameter that the loss does not depend on, or no last pass
            self._send()
        for everything, gradients, work in self._sent:
            if gradients:
                work.wait()
                means = torch.split(everything / world(), [g.numel() for g in gradients])
                for gradient, mean in zip(gradients, means, strict=True):
                    gradient.copy_(mean.view(gradient.shape))
        self._sent, self._missing = [], None

    def _ready(self, parameter: nn.Parameter) -> None:
        if self._missing is None:
            return
        self._missing[self._place[parameter]] -= 1
        # In the same order everywhere.
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        gradients = [p.grad for p in self._buckets[len(self._sent)] if p.grad is not None]
        everything = torch.cat([g.reshape(-1) for g in gradients]) if gradients else torch.empty(0)
        self._sent.append((everything, gradients, dist.all_reduce(everything, async_op=True) if gradients else None))


def synchronized(model: nn.Module) -> nn.Module:
    """``model`` whose BatchNorm layers take mean and variance over all processes (CUDA only)."""
    # Torch's own loses the activation inside timm's BatchNorm layers.
    from timm.layers.norm_act import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(model) if world() > 1 else model  # type: ignore[no-untyped-call]
    return converted


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Give BatchNorm's running statistics, of which each process updates its own, their mean."""
    if world() == 1:
        return
    found = [
        buffer
        for layer in model.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]
    if not found:
        return
    everything = torch.cat(found)
    dist.all_reduce(everything)
    for buffer, mean in zip(found, torch.split(everything / world(), [len(b) for b in found]), strict=True):
        buffer.copy_(mean)


@torch.no_grad()
def check_identical(state: dict[str, Any]) -> None:
    """Raise ``ProcessesDiffer``, naming what, unless the tensors and numbers in ``state`` are the same to the last bit
    in all processes. A checksum each is exchanged, no tensor."""
    if world() == 1:
        return
    names, sums = zip(*_checksums(state, ""), strict=True)
    device = next((total.device for total in sums if total.device.type != "cpu"), torch.device("cpu"))
    everyone = gathered(torch.stack([total.to(device, non_blocking=True) for total in sums]).cpu()).reshape(world(), -1)
    unequal = (everyone != everyone[0]).any(dim=0)
    if bool(unequal.any()):
        differing = [name for name, different in zip(names, unequal.tolist(), strict=True) if different]
        who = [r for r in range(world()) if not torch.equal(everyone[r], everyone[0])]
        raise ProcessesDiffer(
            f"{', '.join(differing[:5])}{', ...' if len(differing) > 5 else ''} of process {who[0]} and of process 0 "
            "have come apart; go on from the last checkpoint, and if it happens again report it"
        )


def _checksums(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        bits = value.detach().contiguous().view(_INTEGERS[value.element_size()])
        yield name, bits.sum(dtype=torch.int64)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _checksums(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float):
        yield name, torch.tensor(float(value), dtype=torch.float64).view(torch.int64)
