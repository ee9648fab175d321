"""Samplers: what every batch holds, what an epoch covers, and that nothing but (seed, epoch) decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies as st

from dam.config import SamplerConfig, TwoClassConfig
from dam.data.sampling import Draw, TwoClassSampler, make_sampler
from dam.errors import UserError


def two_class(targets: np.ndarray, batch_size: int, rate: float, seed: int = 0) -> TwoClassSampler:
    sampler = make_sampler(TwoClassConfig("two_class", rate), targets, batch_size, seed)
    assert isinstance(sampler, TwoClassSampler)
    return sampler


def flat(draws: list[Draw]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([d.rows for d in draws]), np.concatenate([d.passes for d in draws])


def same(a: list[Draw], b: list[Draw]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


@given(st.integers(2, 300), st.integers(2, 40), st.integers(0, 5), st.integers(0, 3))
def test_shuffle_sees_every_row_once_and_never_alone(n: int, batch: int, seed: int, epoch: int) -> None:
    sampler = make_sampler(SamplerConfig("shuffle"), np.zeros((n, 2), np.float32), batch, seed)
    draws = sampler.epoch(epoch)
    rows, passes = flat(draws)
    assert len(draws) == sampler.steps_per_epoch
    assert sorted(rows) == list(range(n))
    assert set(passes) == {epoch}
    sizes = [len(d.rows) for d in draws]
    assert min(sizes) >= 2
    assert max(sizes) <= (batch if batch > 2 else 3)


def test_shuffle_leaves_out_rows_without_any_known_label() -> None:
    targets = np.array([[0, np.nan], [np.nan, np.nan], [1, 1]], np.float32)
    rows, _ = flat(make_sampler(SamplerConfig("shuffle"), targets, 2, 0).epoch(0))
    assert sorted(rows) == [0, 2]


def test_shuffle_needs_two_rows() -> None:
    with pytest.raises(UserError, match="two rows with a known label; there are 1"):
        make_sampler(SamplerConfig("shuffle"), np.array([[1.0], [np.nan]]), 8, 0)


@given(
    st.integers(1, 60), st.integers(1, 150), st.integers(0, 10), st.integers(2, 40), st.floats(0.01, 0.99),
    st.integers(0, 3),
)  # fmt: skip
def test_two_class_promises(n_pos: int, n_neg: int, n_nan: int, batch: int, rate: float, seed: int) -> None:
    targets = np.concatenate([np.full(n_pos, 0.6), np.full(n_neg, 0.4), np.full(n_nan, np.nan)])
    targets = np.random.default_rng(seed).permutation(targets)[:, None]
    sampler = two_class(targets, batch, rate, seed)
    expected = min(max(round(rate * batch), 1), batch - 1)
    all_positives: list[int] = []
    seen: set[tuple[int, int]] = set()
    for epoch in range(3):
        draws = sampler.epoch(epoch)
        assert len(draws) == sampler.steps_per_epoch == -(-n_neg // (batch - expected))
        negatives: Counter[int] = Counter()
        for rows, passes in draws:
            values = targets[rows, 0]
            assert len(rows) == len(passes) == batch
            assert (values >= 0.5).sum() == expected
            assert (values < 0.5).sum() == batch - expected  # and no NaN
            negatives.update(rows[values < 0.5].tolist())
            if batch - expected <= n_neg:
                assert len(set(rows[values < 0.5].tolist())) == batch - expected
            pairs = set(zip(rows.tolist(), passes.tolist(), strict=True))
            assert len(pairs) == batch
            assert not pairs & seen
            seen |= pairs
        assert set(negatives) == set(np.flatnonzero(targets[:, 0] < 0.5).tolist())
        assert sum(negatives.values()) - n_neg < batch - expected  # only the last batch is filled up
        all_positives += [r for d in draws for r in d.rows.tolist() if targets[r, 0] >= 0.5]
    counts = Counter(all_positives)  # the stream runs on over epochs: counts differ by one at most
    assert max(counts.values()) - min(counts.get(int(r), 0) for r in np.flatnonzero(targets[:, 0] >= 0.5)) <= 1


@given(st.integers(1, 30), st.integers(0, 4))
def test_positive_pass_is_the_number_of_earlier_draws(n_pos: int, seed: int) -> None:
    targets = np.concatenate([np.ones(n_pos), np.zeros(37)])[:, None]
    sampler = two_class(targets, 8, 0.4, seed)
    drawn: Counter[int] = Counter()
    for epoch in range(4):
        for batch in sampler.epoch(epoch):
            for row, number in sorted(zip(batch.rows.tolist(), batch.passes.tolist(), strict=True)):
                if targets[row, 0] == 1:
                    assert number == drawn[row]
                    drawn[row] += 1


@pytest.mark.parametrize("cfg", [SamplerConfig("shuffle"), TwoClassConfig("two_class", 0.5)])
def test_pure_functions_of_seed_and_epoch(cfg: SamplerConfig) -> None:
    targets = (np.arange(200) % 7 == 0).astype(np.float32)[:, None]
    one, again, other = (make_sampler(cfg, targets, 16, seed) for seed in (3, 3, 4))
    later = one.epoch(5)
    one.epoch(0)
    assert same(later, one.epoch(5))
    assert same(later, again.epoch(5))
    assert not same(later, one.epoch(6))
    assert not same(later, other.epoch(5))


def test_classes_are_mixed_within_a_batch() -> None:
    targets = (np.arange(4000) % 2).astype(np.float32)[:, None]
    values = [targets[d.rows, 0] for d in two_class(targets, 16, 0.5).epoch(0)]
    first_half = np.mean([v[:8].mean() for v in values])
    assert abs(first_half - 0.5) < 0.05


def test_permutations_are_uniform() -> None:
    targets = np.array([1.0, 1.0, 1.0, *([0.0] * 3000)])[:, None]
    draws = two_class(targets, 4, 0.75).epoch(0)  # three positives a batch: one permutation each
    first = Counter(min((p, i, r) for i, (r, p) in enumerate(zip(*d, strict=True)) if r < 3)[2] for d in draws)
    assert all(abs(n / len(draws) - 1 / 3) < 0.05 for n in first.values())


def test_two_class_mistakes() -> None:
    with pytest.raises(UserError, match="2 are trained together"):
        two_class(np.zeros((4, 2)), 4, 0.5)
    with pytest.raises(UserError, match="no training row is positive"):
        two_class(np.zeros((4, 1)), 4, 0.5)
    with pytest.raises(UserError, match="no training row is negative"):
        two_class(np.array([[1.0], [np.nan]]), 4, 0.5)
