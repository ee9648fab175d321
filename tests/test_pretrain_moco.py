"""Momentum contrast against published vectors, closed forms and a plain re-implementation."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dam.compose import compose
from dam.config import PretrainConfig
from dam.pretraining.moco import Encoder, MoCo, contrastive_logits, projection_head
from dam.pretraining.probe import accuracy, knn_scores, ridge_scores
from dam.pretraining.views import TwoViewSampler

SETTINGS = compose(["pretrain=moco", "warm_start=none", "auc=none"]).pretrain


def settings(**changes: Any) -> PretrainConfig:
    assert SETTINGS is not None
    return replace(SETTINGS, **{"queue": 12, "dim": 3, "bn_groups": 1, **changes})


class Tiny(nn.Module):
    """Stands in for a Network: images (N, H, W, C) to features (N, 4)."""

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), norm or nn.LayerNorm(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.linear(images.flatten(1).float()))


def moco(groups: int = 1, norm: nn.Module | None = None, **changes: Any) -> MoCo:
    torch.manual_seed(0)
    cfg = settings(**changes)
    return MoCo(Encoder(Tiny(norm), projection_head("mlp", 4, 3, 0)), cfg, groups, 0)  # type: ignore[arg-type]


def views(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 2, 2, 1, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the authors' numbers


@pytest.mark.parametrize(
    ("temperature", "loss", "logits"),
    [(0.2, 1.0902941227, [[4, 5, 0, -5], [4, 3, 4, -3]]), (0.07, 1.8172229529, None)],
)
def test_logits_and_loss_of_the_published_vectors(temperature: float, loss: float, logits: list | None) -> None:
    rows = ([[1, 0], [0.6, 0.8]], [[0.8, 0.6], [0, 1]], [[1, 0, -1], [0, 1, 0]])
    q, k, queue = (torch.tensor(values, dtype=torch.float64) for values in rows)
    found = contrastive_logits(q, k, queue, temperature)
    if logits is not None:
        assert torch.allclose(found, torch.tensor(logits).double())
    assert F.cross_entropy(found, torch.zeros(2, dtype=torch.int64)).item() == pytest.approx(loss, abs=1e-6)


def test_the_queue_wraps_and_each_batch_replaces_the_oldest() -> None:
    module, places = moco(queue=6), []
    for _ in range(4):
        places.append(int(module.queue_ptr))
        before = module.queue.clone()
        keys = F.normalize(torch.randn(2, 3), dim=1)
        module._enqueue(keys)
        start = places[-1]
        assert torch.equal(module.queue[:, start : start + 2], keys.T)
        untouched = [i for i in range(6) if i not in (start, start + 1)]
        assert torch.equal(module.queue[:, untouched], before[:, untouched])
    assert places == [0, 2, 4, 0] and int(module.queue_ptr) == 2
    assert torch.allclose(moco(queue=6).queue.norm(dim=0), torch.ones(6))


def test_the_key_encoder_remembers_by_the_momentum() -> None:
    module = moco(momentum=0.999)
    with torch.no_grad():
        for parameter in module.encoder_q.parameters():
            parameter.fill_(1.0)
        for parameter in module.encoder_k.parameters():
            parameter.fill_(3.0)
    for _ in range(693):
        module._follow()
    assert all(torch.allclose(p, torch.tensor(1 + 2 * 0.999**693), atol=1e-4) for p in module.encoder_k.parameters())
    assert abs(0.999**693 - 0.5) < 2e-4
    assert not any(p.requires_grad for p in module.encoder_k.parameters())


# ---------------------------------------------------------------- a step, against a plain one


def plain_steps(module: MoCo, batches: list[Tensor], lr: float, symmetric: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """The authors' order written down without any of our code: query, momentum, key, loss with the old queue, enqueue,
    gradient step."""
    q, k, queue, pointer = copy.deepcopy(module.encoder_q), copy.deepcopy(module.encoder_k), module.queue.clone(), 0
    m, t, size = module.momentum, module.temperature, module.queue.shape[1]
    for images in batches:
        pairs = [(images[:, 0], images[:, 1])] + ([(images[:, 1], images[:, 0])] if symmetric else [])
        queries = [q(one) for one, _ in pairs]
        for ours, theirs in zip(k.parameters(), q.parameters(), strict=True):
            ours.data = ours.data * m + theirs.data * (1 - m)
        keys = [k(other).detach() for _, other in pairs]
        losses = []
        for query, key in zip(queries, keys, strict=True):
            for i in range(len(query)):
                scores = torch.stack([query[i] @ key[i], *(query[i] @ queue[:, j] for j in range(size))]) / t
                losses.append(-torch.log_softmax(scores, 0)[0])
        q.zero_grad()
        torch.stack(losses).mean().backward()
        for key in torch.cat(keys):
            queue[:, pointer] = key
            pointer = (pointer + 1) % size
        for parameter in q.parameters():
            parameter.data -= lr * parameter.grad
    return q, k, queue


@pytest.mark.parametrize("symmetric", [False, True])
def test_three_steps_equal_a_plain_re_implementation(symmetric: bool) -> None:
    module = moco(momentum=0.9, symmetric=symmetric)
    batches = [views(3, seed) for seed in range(3)]
    q, k, queue = plain_steps(module, batches, 0.5, symmetric)
    optimizer = torch.optim.SGD(module.encoder_q.parameters(), lr=0.5)
    for step, images in enumerate(batches):
        optimizer.zero_grad()
        loss, found = module(images, step)
        loss.backward()
        optimizer.step()
        assert 0 <= float(found) <= 1
    for ours, plain in ((module.encoder_q, q), (module.encoder_k, k)):
        for name, value in ours.state_dict().items():
            assert torch.allclose(value, plain.state_dict()[name], atol=1e-6), name
    assert torch.allclose(module.queue, queue, atol=1e-6)


def test_a_key_is_found_only_where_it_is_nearer_than_all_others() -> None:
    module = moco()
    with torch.no_grad():
        for parameter in module.encoder_q.parameters():
            parameter.zero_()
        module.encoder_q.projection[2].bias.fill_(1.0)  # all vectors alike: a collapse, not a success
        module.encoder_k.load_state_dict(module.encoder_q.state_dict())
        module.queue.copy_(F.normalize(torch.ones(3, 12), dim=0))
    loss, found = module(views(4), 0)
    assert float(found) == 0 and float(loss.detach()) == pytest.approx(math.log(13), rel=1e-5)


# ---------------------------------------------------------------- BatchNorm in groups


def lightly_split(norm: nn.BatchNorm1d, x: Tensor, groups: int) -> Tensor:
    """BatchNorm of consecutive groups, running statistics their mean: lightly's SplitBatchNorm in other words."""
    outputs, means, variances = [], [], []
    for part in x.chunk(groups):
        mean, variance = part.mean(0), part.var(0, unbiased=False)
        outputs.append((part - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias)
        means.append(mean)
        variances.append(part.var(0, unbiased=True))
    m = norm.momentum
    norm.running_mean = (1 - m) * norm.running_mean + m * torch.stack(means).mean(0)
    norm.running_var = (1 - m) * norm.running_var + m * torch.stack(variances).mean(0)
    return torch.cat(outputs)


def test_groups_have_statistics_of_their_own_and_move_the_running_ones_once() -> None:
    module = moco(groups=4, norm=nn.BatchNorm1d(4))
    images = views(16)[:, 0]
    network = copy.deepcopy(module.encoder_q.network)
    for _ in range(3):
        with torch.no_grad():
            ours = module._in_groups(module.encoder_q, images)
            features = lightly_split(network.norm, network.linear(images.flatten(1)), 4)
            theirs = F.normalize(module.encoder_q.projection(features), dim=1)
        assert torch.allclose(ours, theirs, atol=1e-6)
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(module.encoder_q.network.norm, name), getattr(network.norm, name), atol=1e-6)
    assert module.encoder_q.network.norm.momentum == 0.1


def test_keys_keep_other_company_than_queries_and_come_back_in_order() -> None:
    module = moco(groups=4, norm=nn.BatchNorm1d(4))
    images = views(16)[:, 0]
    with torch.no_grad():
        grouped = module._in_groups(module.encoder_k, images)
        order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
        keys = module._keys(images, order)
        assert not torch.allclose(keys, grouped, atol=1e-3)
        plain = torch.empty_like(keys)
        for part in order.chunk(4):
            plain[part] = module.encoder_k(images[part])
    assert torch.allclose(keys, plain, atol=1e-6)
    without = moco(groups=1)  # LayerNorm: company does not matter
    assert torch.allclose(without._keys(images, order), without.encoder_k(images), atol=1e-6)


# ---------------------------------------------------------------- views


def test_every_image_comes_twice_in_a_batch_as_two_passes_that_never_repeat() -> None:
    sampler = TwoViewSampler(10, 4, seed=3)
    assert sampler.steps_per_epoch == 2
    seen: set[tuple[int, int]] = set()
    for epoch in range(3):
        draws = sampler.epoch(epoch)
        rows = np.concatenate([draw.rows for draw in draws])
        assert len(draws) == 2 and all(len(draw.rows) == 8 for draw in draws), "what is left over is dropped"
        assert (rows[0::2] == rows[1::2]).all() and len(set(rows.tolist())) == 8
        pairs = {(int(r), int(p)) for draw in draws for r, p in zip(draw.rows, draw.passes, strict=True)}
        assert len(pairs) == 16 and not pairs & seen
        seen |= pairs
    assert all(
        (a.rows == b.rows).all() for a, b in zip(sampler.epoch(1), TwoViewSampler(10, 4, 3).epoch(1), strict=True)
    )
    assert any((a.rows != b.rows).any() for a, b in zip(sampler.epoch(1), sampler.epoch(2), strict=True))


# ---------------------------------------------------------------- the probe


def test_the_linear_probe_is_ridge_regression_on_standardized_features() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(60, 5)) * [1, 2, 3, 4, 5], rng.normal(size=(7, 5))
    y = (x[:, :2] @ [[1, -1], [0.3, 1]] + rng.normal(size=(60, 2)) > 0).astype(float)
    scale = StandardScaler().fit(x)
    plain = Ridge(alpha=0.1 * 60).fit(scale.transform(x), y).predict(scale.transform(z))
    assert np.allclose(ridge_scores(x, y, z, 0.1), plain)
    y[:10, 1] = np.nan  # unknown labels are left out of theirs
    known = Ridge(alpha=0.1 * 50).fit(scale.transform(x[10:]), y[10:, 1]).predict(scale.transform(z))
    assert np.allclose(ridge_scores(x, y, z, 0.1)[:, 1], known)
    assert (ridge_scores(x, np.full((60, 1), np.nan), z, 0.1) == 0).all()


def test_neighbours_vote_by_cosine() -> None:
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(40, 3)), rng.normal(size=(700, 3))
    y = (rng.random((40, 2)) < 0.5).astype(float)
    y[:5, 0] = np.nan
    found = knn_scores(x, y, z, 6)
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    for i in (0, 300, 699):
        for k in range(2):
            known = np.flatnonzero(~np.isnan(y[:, k]))
            cosine = unit(x[known]) @ unit(z[i : i + 1])[0]
            nearest = np.argsort(-cosine)[:6]
            weights = np.exp(cosine[nearest] / 0.1)
            assert found[i, k] == pytest.approx((weights * y[known][nearest, k]).sum() / weights.sum())


def test_accuracy_of_one_label_of_classes_and_of_findings() -> None:
    one = np.array([[1.0], [0], [1], [np.nan]])
    assert accuracy(one, np.array([[0.9], [0.4], [0.2], [0.9]])) == pytest.approx(2 / 3)
    classes = np.eye(3)[[0, 1, 2, 2]]
    assert accuracy(classes, np.array([[3, 1, 1], [1, 0, 2], [0, 0, 1], [1, 2, 3.0]])) == pytest.approx(3 / 4)
    findings = np.array([[1.0, 1], [0, 0]])
    assert math.isnan(accuracy(findings, findings))
