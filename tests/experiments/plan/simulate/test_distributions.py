from __future__ import annotations

import numpy as np
import pytest

from experiments.core.errors import InputError
from experiments.plan.simulate.distributions import (
    ConstantTime,
    Gamma,
    Lognormal,
    Measured,
    ShiftedExponential,
    Times,
    parse,
)


@pytest.mark.parametrize("times", [Lognormal(2.0, 0.3), Gamma(2.0, 0.3), ShiftedExponential(2.0, 0.3)])
def test_samples_have_the_requested_mean_and_spread(times: Times) -> None:
    drawn = times.draw(np.random.default_rng(0), (400, 500))
    assert drawn.shape == (400, 500)
    assert drawn.mean() == pytest.approx(2.0, rel=0.005)
    assert drawn.std() == pytest.approx(0.6, rel=0.02)
    assert drawn.min() > 0


def test_constant_times_do_not_vary() -> None:
    assert set(ConstantTime(0.25).draw(np.random.default_rng(0), (3, 5)).ravel()) == {0.25}


def test_a_shifted_exponential_is_never_shorter_than_its_shift() -> None:
    assert ShiftedExponential(2.0, 0.25).draw(np.random.default_rng(0), (1000,)).min() >= 1.5


def test_samples_come_from_the_measured_times() -> None:
    drawn = Measured([3.0, 1.0, 2.0]).draw(np.random.default_rng(0), (10_000,))
    assert drawn.min() == 1.0
    assert drawn.max() == 3.0
    assert drawn.mean() == pytest.approx(2.0, rel=0.02)


def test_quantiles_are_interpolated_linearly() -> None:
    drawn = Measured([1.0, 2.0, 6.0], [0.0, 0.5, 1.0]).draw(np.random.default_rng(0), (20_000,))
    assert np.quantile(drawn, [0.25, 0.75]) == pytest.approx([1.5, 4.0], rel=0.02)


def test_the_time_of_one_worker_follows_from_the_slowest_of_several() -> None:
    rng = np.random.default_rng(0)
    slowest = Gamma(1.0, 0.2).draw(rng, (20_000, 3)).max(axis=1)
    alone = Measured(slowest.tolist(), slowest_of=3)
    assert alone.mean_s == pytest.approx(1.0, rel=0.01)
    assert alone.draw(rng, (20_000, 3)).max(axis=1).mean() == pytest.approx(slowest.mean(), rel=0.01)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", ConstantTime(2.0)),
        ("lognormal:0.2", Lognormal(2.0, 0.2)),
        ("gamma:1.5", Gamma(2.0, 1.5)),
        ("shifted_exponential:1", ShiftedExponential(2.0, 1.0)),
    ],
)
def test_distributions_have_names(text: str, expected: Times) -> None:
    assert parse(text, 2.0) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lognorml:0.2", "--times lognorml:0.2 is not a distribution; did you mean 'lognormal:0.2'?"),
        (
            "gamma",
            "--times gamma has no valid spread for gamma; write standard deviation / mean, from 1e-06 ",
        ),
        ("gamma:1e-200", "--times gamma:1e-200 has no valid spread for gamma"),
        ("shifted_exponential:1.5", "from 1e-06 to 1, as in --times shifted_exponential:0.2"),
    ],
)
def test_an_invalid_distribution_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as err:
        parse(text, 1.0)
    assert message in err.value.problems[0]
