import re
from collections.abc import Callable

import pytest

from modules.schedule.base import Schedule
from modules.schedule.constant import Constant
from modules.schedule.cosine import Cosine
from modules.schedule.exponential import Exponential
from modules.schedule.step import Step


def _factors(schedule: Schedule, num_steps: int) -> list[float]:
    return [schedule.factor(step, num_steps) for step in range(num_steps)]


def test_constant_stays() -> None:
    assert _factors(Constant(), 3) == [1.0, 1.0, 1.0]


def test_warmup_rises_linearly_and_stays_constant() -> None:
    assert _factors(Constant(warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_falls_from_one_to_its_last_factor() -> None:
    cosine = Cosine(final_factor=0.2)
    assert cosine.factor(0, 10) == 1.0
    assert cosine.factor(5, 10) == pytest.approx(0.6)
    assert cosine.factor(10, 10) == pytest.approx(0.2)
    assert cosine.factor(99, 10) == pytest.approx(0.2)


def test_cosine_starts_after_the_warmup() -> None:
    factors = _factors(Cosine(warmup_steps=2), 6)
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_step_falls_in_steps() -> None:
    assert _factors(Step(decay_factor=0.5, decay_every_steps=2), 6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_step_counts_from_the_end_of_the_warmup() -> None:
    assert _factors(Step(decay_factor=0.5, decay_every_steps=2, warmup_steps=2), 6) == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5]


def test_exponential_falls_every_step_and_meets_the_stairs() -> None:
    factors = _factors(Exponential(decay_factor=0.25, decay_every_steps=2), 5)
    assert factors == pytest.approx([1.0, 0.5, 0.25, 0.125, 0.0625])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Constant(warmup_steps=-1), "Constant wants warmup_steps of at least 0, but got -1"),
        (lambda: Cosine(final_factor=1.5), "Cosine wants final_factor in [0, 1], but got 1.5"),
        (lambda: Step(0.0, 5), "Step wants decay_factor in (0, 1], but got 0.0"),
        (lambda: Step(0.5, 0), "Step wants decay_every_steps of at least 1, but got 0"),
        (lambda: Exponential(1.5, 5), "Exponential wants decay_factor in (0, 1], but got 1.5"),
        (lambda: Exponential(0.5, 0), "Exponential wants decay_every_steps of at least 1, but got 0"),
    ],
)
def test_schedules_refuse_wrong_arguments(build: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()
