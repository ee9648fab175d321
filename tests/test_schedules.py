"""Schedules: factors, moments of decay, durations in steps, extension."""

from __future__ import annotations

import pytest

from dam.config import CosineConfig, CyclicConfig, ScheduleConfig, StepScheduleConfig
from dam.objectives import make_schedule, resolve_steps


def step_decay(at: list[float], unit: str = "steps", factor: float = 0.1, warmup: float = 0):
    return StepScheduleConfig(name="step", warmup=warmup, unit=unit, at=at, factor=factor)


def test_constant_and_warmup():
    plain = make_schedule(ScheduleConfig("constant", 0, "steps"), 10, 5)
    assert [plain.factor(step) for step in range(10)] == [1.0] * 10
    assert plain.extendable
    warm = make_schedule(ScheduleConfig("constant", 3, "steps"), 10, 5)
    assert [warm.factor(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert not any(warm.is_drop(step) for step in range(10))


@pytest.mark.parametrize("at, unit", [([4, 8], "steps"), ([2, 4], "epochs"), ([0.4, 0.8], "fraction")])
def test_step_decay_in_every_unit(at, unit):
    schedule = make_schedule(step_decay(at, unit), total_steps=10, steps_per_epoch=2)
    assert [schedule.factor(step) for step in range(10)] == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)
    assert [step for step in range(10) if schedule.is_drop(step)] == [4, 8]
    assert schedule.extendable is (unit != "fraction")


def test_drops_on_one_step_multiply_and_drops_past_the_end_never_come():
    schedule = make_schedule(step_decay([0.5, 0.6, 40], "epochs"), total_steps=10, steps_per_epoch=2)
    assert [step for step in range(10) if schedule.is_drop(step)] == [1]
    assert schedule.factor(1) == pytest.approx(0.01)
    assert schedule.factor(9) == pytest.approx(0.01)


def test_cosine():
    schedule = make_schedule(CosineConfig("cosine", 2, "steps", 0.1), total_steps=12, steps_per_epoch=4)
    assert schedule.factor(0) == pytest.approx(1 / 3)
    assert schedule.factor(2) == pytest.approx(1.0)
    assert schedule.factor(7) == pytest.approx(0.55)
    assert schedule.factor(12) == pytest.approx(0.1)
    assert schedule.factor(50) == pytest.approx(0.1)
    falling = [schedule.factor(step) for step in range(2, 13)]
    assert falling == sorted(falling, reverse=True)
    assert not schedule.extendable


def test_cyclic():
    schedule = make_schedule(CyclicConfig("cyclic", 0, "epochs", 0.2, 2), total_steps=16, steps_per_epoch=4)
    wave = [0.2, 0.4, 0.6, 0.8, 1.0, 0.8, 0.6, 0.4]
    assert [schedule.factor(step) for step in range(16)] == pytest.approx(wave * 2)
    assert schedule.extendable
    shortest = make_schedule(CyclicConfig("cyclic", 0, "epochs", 0.2, 0.001), total_steps=4, steps_per_epoch=4)
    assert [shortest.factor(step) for step in range(4)] == pytest.approx([0.2, 1, 0.2, 1])


def test_a_positive_wish_is_never_zero_steps():
    assert resolve_steps(0.001, "epochs", 100, 10) == 1
    assert resolve_steps(0.001, "fraction", 100, 10) == 1
    assert resolve_steps(0.2, "steps", 100, 10) == 1
    assert resolve_steps(0, "epochs", 100, 10) == 0
    assert resolve_steps(2.5, "epochs", 100, 10) == 25
    schedule = make_schedule(step_decay([0.01], "epochs", warmup=0.01), total_steps=4, steps_per_epoch=3)
    assert schedule.is_drop(1)
    assert schedule.warmup == 1


def test_extendable_means_that_nothing_hangs_on_the_length():
    assert not make_schedule(ScheduleConfig("constant", 0.1, "fraction"), 10, 5).extendable
    assert make_schedule(ScheduleConfig("constant", 0, "fraction"), 10, 5).extendable
    short, long = (make_schedule(step_decay([1, 3], "epochs", warmup=1), total, 5) for total in (10, 40))
    assert short.extendable
    assert [short.factor(step) for step in range(40)] == [long.factor(step) for step in range(40)]


def test_wrong_schedules_are_refused():
    with pytest.raises(ValueError, match="no fraction of the stage"):
        make_schedule(step_decay([50, 75], "fraction"), 10, 5)
    with pytest.raises(ValueError, match="ascending"):
        make_schedule(step_decay([8, 4]), 10, 5)
    with pytest.raises(ValueError, match="choose one of constant, step, cosine, cyclic"):
        make_schedule(ScheduleConfig("linear", 0, "steps"), 10, 5)
    with pytest.raises(ValueError, match="at least one step"):
        make_schedule(ScheduleConfig("constant", 0, "steps"), 0, 5)
    for name in ("step", "cosine", "cyclic"):
        with pytest.raises(ValueError, match="needs the key"):
            make_schedule(ScheduleConfig(name, 0, "steps"), 10, 5)
    with pytest.raises(ValueError, match="at least 0"):
        resolve_steps(-1, "steps", 10, 5)
