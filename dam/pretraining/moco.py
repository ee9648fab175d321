"""Momentum contrast (He et al. 2020, arXiv 1911.05722; v2: Chen et al. 2020, arXiv 2003.04297) as one module.

Two augmented views of every image: the query encoder sees one, its slowly following copy, the key encoder, the other.
A query must find its own key among those of earlier batches, which wait in a queue.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dam.config import PretrainConfig
from dam.models.backbones import seeded
from dam.training import distributed
from dam.training.module import Network


class Encoder(nn.Module):
    """uint8 images (N, H, W, C) -> unit vectors (N, dim), float32: a network without a head, and a projection."""

    def __init__(self, network: Network, projection: nn.Module) -> None:
        super().__init__()
        self.network, self.projection = network, projection

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.projection(self.network(images)), dim=1)


def projection_head(kind: Literal["linear", "mlp"], width: int, dim: int, seed: int) -> nn.Module:
    """From features (N, width) to (N, dim): one layer (v1) or, of v2, two with a ReLU between, drawn from ``seed``."""
    with seeded(seed + 2):
        if kind == "linear":
            return nn.Linear(width, dim)
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))


class MoCo(nn.Module):
    """The query encoder, the key encoder, the queue of ``dim`` x ``queue`` unit columns, and the place in it where the
    next keys go. ``groups``: into so many parts a process cuts its batch, each with its own BatchNorm statistics.

    A step, in the order of the authors' code: queries; the key encoder's parameters (not BatchNorm's running
    statistics, which are its own) follow, k <- m k + (1 - m) q; keys; logits against the queue as it was; then the new
    keys take the place of the oldest.

    BatchNorm lets a network tell which images shared a batch, and so find the key without looking at the picture. Keys
    are therefore computed in another grouping than queries: in a random order, across all processes, in groups.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(self, encoder: Encoder, cfg: PretrainConfig, groups: int, seed: int) -> None:
        super().__init__()
        self.encoder_q, self.encoder_k = encoder, copy.deepcopy(encoder)
        self.encoder_k.requires_grad_(False)
        self.temperature, self.momentum, self.symmetric = cfg.temperature, cfg.momentum, cfg.symmetric
        self.groups = groups
        with seeded(seed + 3):
            self.register_buffer("queue", F.normalize(torch.randn(cfg.dim, cfg.queue), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.int64))

    def forward(self, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Of this process's images (N, 2, H, W, C), two views of each: the loss, the mean over the queries of all
        processes, and the share of queries that are nearer to their own key than to all ``queue`` others. ``seed``, the
        same in all processes, gives the order of the keys."""
        first, second = images[:, 0], images[:, 1]
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(first) * distributed.world(), generator=generator).to(images.device)
        queries = [
            distributed.gathered_with_gradient(self._in_groups(self.encoder_q, view))
            for view in (first, second)[: 1 + self.symmetric]
        ]
        with torch.no_grad():
            self._follow()
            keys = [self._keys(view, order) for view in (second, first)[: 1 + self.symmetric]]
        negatives = self.queue.clone()
        results = [self._contrast(q, k, negatives) for q, k in zip(queries, keys, strict=True)]
        self._enqueue(torch.cat(keys))
        loss, found = (torch.stack(part).mean() for part in zip(*results, strict=True))
        return loss, found

    def _contrast(self, queries: Tensor, keys: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        logits = contrastive_logits(queries, keys, negatives, self.temperature)
        target = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        found = logits[:, 0] > logits[:, 1:].amax(dim=1)  # a tie is not found: equal vectors are a collapse
        return F.cross_entropy(logits, target), found.detach().float().mean()

    @torch.no_grad()
    def _follow(self) -> None:
        ours: list[Tensor] = list(self.encoder_k.parameters())
        theirs: list[Tensor] = list(self.encoder_q.parameters())
        torch._foreach_mul_(ours, self.momentum)
        torch._foreach_add_(ours, theirs, alpha=1 - self.momentum)

    def _keys(self, images: Tensor, order: Tensor) -> Tensor:
        """Keys of the images of all processes, in their order, each computed in the company that ``order`` gives it."""
        mine = order.chunk(distributed.world())[distributed.rank()]
        company = distributed.gathered(images)[mine]
        shuffled = distributed.gathered(self._in_groups(self.encoder_k, company))
        return shuffled[torch.argsort(order)]

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        places = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % self.queue.shape[1]
        self.queue.index_copy_(1, places, keys.T.to(self.queue.dtype))
        self.queue_ptr.copy_((self.queue_ptr + len(keys)) % self.queue.shape[1])

    def _in_groups(self, encoder: Encoder, images: Tensor) -> Tensor:
        """The encoder on each group of ``images`` by itself. BatchNorm's running statistics then move once, by the mean
        over the groups, as lightly's SplitBatchNorm has it."""
        if self.groups == 1:
            return encoder(images)  # type: ignore[no-any-return]
        layers = [layer for layer in batch_norms(encoder) if layer.training and layer.momentum is not None]
        usual = [float(layer.momentum or 0) for layer in layers]
        parts = []
        try:
            for number, part in enumerate(images.chunk(self.groups), start=1):
                for layer, momentum in zip(layers, usual, strict=True):
                    share = momentum / self.groups
                    layer.momentum = share / (1 - momentum + number * share)
                parts.append(encoder(part))
        finally:
            for layer, momentum in zip(layers, usual, strict=True):
                layer.momentum = momentum
        return torch.cat(parts)


def contrastive_logits(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """(N, 1 + K): each query with its own key first, then with every column of ``negatives`` (dim, K), over T."""
    own = (queries * keys).sum(dim=1, keepdim=True)
    return torch.cat([own, queries @ negatives], dim=1) / temperature


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The layers whose output for an image depends on the images beside it."""
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
