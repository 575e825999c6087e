"""Points of a search space as Optuna's parameters, and the sampler of a study."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial

from experiments.sweep.space import Choice, Dimension, Space, list_values
from experiments.sweep.strategies.base import Strategy
from experiments.sweep.strategies.model_based import ModelBased

MAX_DRAWS = 50
"""Draws for each point; after these a small space is considered exhausted."""


def draw_random_points(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Draw different random points; all points if the space has fewer. A larger count begins with the same points."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    points: dict[str, dict[str, Any]] = {}
    for _ in range(count * MAX_DRAWS):
        point = draw_point(study, space)
        points.setdefault(repr(point), point)
        if len(points) == count:
            break
    return list(points.values())


def draw_point(study: optuna.Study, space: Space) -> dict[str, Any]:
    """Let the study's sampler choose a point: the values by key."""
    trial = study.ask()
    return _fill(space, lambda name, dimension: _suggest(trial, name, dimension))


def to_optuna(space: Space, point: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Parameters and distributions of a point, without the values that are not in the space.

    Args:
        space: the current one, which may have been extended since the point was chosen.
        point: values by key.
    """
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, dimension, value in _match(space, point):
        params[name] = _label(value) if isinstance(dimension, Choice) else value
        distributions[name] = _distribution(dimension)
    return params, distributions


def find_fault(space: Space, point: Mapping[str, Any]) -> str | None:
    """Why a point that a strategy chose is not in the space; None if it is."""
    names = _fill(space, lambda name, dimension: point.get(name.partition(" (")[0]))
    if missing := [key for key in names if key not in point]:
        return f"it has no value for {', '.join(missing)}"
    known = {name.partition(" (")[0] for name, _, _ in _match(space, point)}
    outside = [f"{key}={value!r}" for key, value in point.items() if key not in known]
    return f"{', '.join(outside)} is not in the space" if outside else None


def _fill(space: Space, suggest: Callable[[str, Dimension], Any], condition: str = "") -> dict[str, Any]:
    """A point, key by key; the conditional keys of the chosen options are included."""
    point: dict[str, Any] = {}
    for key, dimension in space.items():
        value = point[key] = suggest(_name(key, condition), dimension)
        point |= _fill(_inside(dimension, value), suggest, f"{condition}, {key}={value}".lstrip(", "))
    return point


def _match(space: Space, point: Mapping[str, Any], condition: str = "") -> Iterator[tuple[str, Dimension, Any]]:
    """Name, dimension and value of the keys of a point that the space has."""
    for key, dimension in space.items():
        if key in point and _is_in(dimension, point[key]):
            yield _name(key, condition), dimension, point[key]
            yield from _match(_inside(dimension, point[key]), point, f"{condition}, {key}={point[key]}".lstrip(", "))


def _name(key: str, condition: str) -> str:
    """Optuna's name of a key: the learning rates of two optimizers are two parameters."""
    return f"{key} ({condition})" if condition else key


def _inside(dimension: Dimension, value: Any) -> Space:
    return dimension.inside.get(value, {}) if isinstance(dimension, Choice) and dimension.inside else {}


def _is_in(dimension: Dimension, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return _label(value) in map(_label, dimension.options)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (
        is_number
        and dimension.low <= value <= dimension.high
        and (dimension.count() is None or value in list_values(dimension))
    )


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution([_label(option) for option in dimension.options])
    if dimension.is_integer:
        return IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _label(option: Any) -> str:
    """An option as text: Optuna accepts no lists, and treats 1 and true as equal."""
    return json.dumps(option, sort_keys=True)


def _suggest(trial: Trial, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        labels = [_label(option) for option in dimension.options]
        return dimension.options[labels.index(str(trial.suggest_categorical(name, labels)))]
    if dimension.is_integer:
        return trial.suggest_int(
            name, int(dimension.low), int(dimension.high), step=int(dimension.step or 1), log=dimension.log
        )
    drawn = trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    return drawn if dimension.step is None else dimension.at(round((drawn - dimension.low) / dimension.step))


class PerTrialSampler(BaseSampler):
    """Creates the strategy's sampler for each trial, with a seed that follows from the trial's number.

    A sampler therefore has no history, and a worker that restarts draws the same point as one that does not.
    """

    def __init__(self, strategy: Strategy, space: Space) -> None:
        """
        Args:
            strategy: of the sweep; only a `ModelBased` one samples.
            space: of the sweep.
        """
        self._strategy, self._space = strategy, space
        self._inner: BaseSampler = RandomSampler()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if isinstance(self._strategy, ModelBased):
            self._inner = self._strategy.make_sampler(self._space, trial.number)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)
