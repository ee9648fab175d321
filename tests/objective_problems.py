"""Problems and small steps that the tests of the objectives share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dam.objectives import PESG, AUCMarginLoss, AUCSquareLoss

NAN = float("nan")


def batch(
    n: int = 40, labels: int = 1, seed: int = 0, rate: float = 0.3, missing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Random float64 scores and targets (n, labels), some of them missing."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, labels, generator=generator, dtype=torch.float64)
    targets = (torch.rand(n, labels, generator=generator) < rate).double()
    targets[torch.rand(n, labels, generator=generator) < missing] = NAN
    return scores, targets


def with_values(loss: AUCMarginLoss | AUCSquareLoss, a: float = 0.4, b: float = 0.2, alpha: float = 0.7):
    """The loss in float64 with a, b, alpha set (each label's a little apart)."""
    loss = loss.double()
    with torch.no_grad():
        for value, parameter in ((a, loss.a), (b, loss.b), (alpha, loss.alpha)):
            parameter.copy_(value + 0.03 * torch.arange(loss.num_labels, dtype=torch.float64))
    return loss


def equation_8(scores: Tensor, targets: Tensor, p: float, m: float, a: float, b: float, alpha: float) -> float:
    """DAM eq. (8), one sample after the other; soft labels as weights."""
    total = 0.0
    for h, y in zip(scores.flatten().tolist(), targets.flatten().tolist(), strict=True):
        total += y * ((1 - p) * (h - a) ** 2 - 2 * alpha * (1 - p) * h)
        total += (1 - y) * (p * (h - b) ** 2 + 2 * alpha * p * h)
        total += -p * (1 - p) * alpha**2 + 2 * alpha * p * (1 - p) * m
    return total / targets.numel()


def gradients(value: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [g.clone() for g in torch.autograd.grad(value, inputs)]


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Sixteen inputs (16, 3), their targets, and the weights to start from."""
    x = torch.tensor([[((7 * i + 3 * j) % 11 - 5) / 5 for j in range(3)] for i in range(16)])
    y = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0])
    return x, y, torch.tensor([0.3, -0.2, 0.5])


def half(step: int) -> slice:
    return slice(0, 8) if step % 2 == 0 else slice(8, 16)


def small_net(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.5
    return net.to(dtype)


def small_step(net: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    dtype = next(net.parameters()).dtype
    x = torch.randn(12, 6, generator=generator).to(dtype)
    y = (torch.rand(12, 2, generator=generator) < 0.3).float()
    optimizer.zero_grad()
    loss(torch.sigmoid(net(x)), y).backward()
    optimizer.step()


def everything(net: nn.Module, loss: nn.Module, optimizer: PESG) -> list[Tensor]:
    return [*net.parameters(), *loss.parameters(), *optimizer.reference()]


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
