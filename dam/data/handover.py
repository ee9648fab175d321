"""The last way of a batch's images: from the loader's memory to the device, beside the step that is being computed."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from dam.data import warp_device
from dam.data.geometry import Plan


class HandOver:
    """``hand_over(images, plan)``: uint8 (n, S, S, C) on ``device``, after ``plan`` there if one is given.

    On CUDA both run on a stream of their own: a step is only queued there when the next batch is asked for, so copy and
    augmentation of that batch overlap with it. The consumer's stream waits for them, the host does not. Elsewhere
    images that are on the device already are not copied.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, images: Tensor, plan: Plan | None) -> Tensor:
        with torch.cuda.stream(self._side) if self._side is not None else nullcontext():
            there = images.to(self._device, non_blocking=True)
            if plan is not None:
                there = warp_device.apply(plan, there)
        if self._side is not None:
            consumer = torch.cuda.current_stream(self._device)
            consumer.wait_stream(self._side)
            there.record_stream(consumer)  # its memory is not reused before the consumer is done with it
        return there
