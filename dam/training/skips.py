"""``on_non_finite=skip``: which steps are left out, and how one is undone before it was taken."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from dam.training import distributed
from dam.training.failures import NonFiniteLoss

log = logging.getLogger("dam")

MOST_IN_A_ROW = 100  # skipped steps, then it gives up


class Skips:
    """Looks at loss and gradient before every optimizer step, and so waits for the device, as ``GradScaler`` does.

    What a forward pass changes are the buffers of ``module`` (BatchNorm's running statistics among them) and the
    parameters that are not trained (an encoder that follows another): ``remember`` keeps a copy, ``skip`` puts it back.
    ``title`` is the stage's, for the log.
    """

    def __init__(self, module: nn.Module, scaler: torch.amp.GradScaler, title: str) -> None:
        self._module, self._scaler, self._title = module, scaler, title
        self._before: list[Tensor] = []
        self._since = self._in_a_row = 0

    @torch.no_grad()
    def remember(self) -> None:
        """Before the forward pass."""
        self._before = [tensor.clone() for tensor in self._changing()]

    @torch.no_grad()
    def usable(self, loss: Tensor) -> bool:
        """Whether loss and gradient are finite, in all processes. With a scaler only the loss is asked: an overflow
        in fp16 is the scaler's matter."""
        finite = torch.isfinite(loss)
        if not self._scaler.is_enabled():
            gradients = [p.grad for p in self._module.parameters() if p.grad is not None]
            largest = torch.nn.utils.get_total_norm(gradients, norm_type=float("inf"))
            finite = finite & torch.isfinite(largest)
        if distributed.any_of(not finite):
            return False
        self._in_a_row = 0
        return True

    @torch.no_grad()
    def skip(self, step: int, loss: float, images: str) -> None:
        """Put the buffers back, count the step, name its images. Raises ``NonFiniteLoss`` when too many follow."""
        for tensor, before in zip(self._changing(), self._before, strict=True):
            tensor.copy_(before)
        self._since += 1
        self._in_a_row += 1
        what = "its gradient is not finite" if math.isfinite(loss) else f"its loss is {loss}"
        log.warning("%s: step %d is skipped, %s; images of that batch: %s", self._title, step, what, images)
        if self._in_a_row >= MOST_IN_A_ROW:
            raise NonFiniteLoss(
                f"{self._title}: {self._in_a_row} steps in a row, up to step {step}, had no finite loss and gradient; "
                "lower the learning rate, set clip_norm, or look at the images that train.log names"
            )

    def _changing(self) -> list[Tensor]:
        return [*self._module.buffers(), *(p for p in self._module.parameters() if not p.requires_grad)]

    def taken(self) -> int:
        """Steps skipped since this was last asked."""
        count, self._since = self._since, 0
        return count

    def state_dict(self) -> dict[str, Any]:
        return {"since": self._since, "in_a_row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._since, self._in_a_row = state["since"], state["in_a_row"]
