"""Points drawn from a space by Optuna: what each key is to it, and which sampler draws."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial

from experiments.sweep.space import Choice, Dimension, Interval, Space, is_conditional, values

MOST_DRAWS = 50
"""Draws a point, after which a small space is taken to have no further ones."""


def draw_random_points(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """So many different points, or all there are; more of them begin with the same ones.

    Args:
        space: what they are drawn from.
        count: how many.
        seed: from which they follow.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=RandomSampler(seed=seed))
    found: dict[str, dict[str, Any]] = {}
    for _ in range(count * MOST_DRAWS):
        point = draw_point(study, space)
        found.setdefault(repr(point), point)
        if len(found) == count:
            break
    return list(found.values())


def draw_point(study: optuna.Study, space: Space) -> dict[str, Any]:
    """Let the study's sampler choose a point: the values by key."""
    trial = study.ask()
    return _draw(space, lambda name, part: _suggest(trial, name, part))


def to_optuna(space: Space, point: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Parameters and distributions of a point, without the values that are not in the space.

    Args:
        space: the current one, which may have been extended since the point was chosen.
        point: values by key.
    """
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, part, value in _placed(space, point):
        params[name] = _label(value) if isinstance(part, Choice) else value
        distributions[name] = _distribution(part)
    return params, distributions


def _draw(space: Space, draw: Callable[[str, Dimension], Any], where: str = "") -> dict[str, Any]:
    """A point key by key; the keys that an option brings along follow it, and no others."""
    point: dict[str, Any] = {}
    for key, part in space.items():
        value = point[key] = draw(_name(key, where), part)
        point |= _draw(_inside(part, value), draw, f"{where}, {key}={value}".lstrip(", "))
    return point


def _placed(space: Space, point: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Dimension, Any]]:
    """Name, part and value of the keys of a point that the space has."""
    for key, part in space.items():
        if key in point and _fits(part, point[key]):
            yield _name(key, where), part, point[key]
            yield from _placed(_inside(part, point[key]), point, f"{where}, {key}={point[key]}".lstrip(", "))


def _name(key: str, where: str) -> str:
    """What Optuna calls a key: the learning rate of one optimizer is not that of another."""
    return f"{key} ({where})" if where else key


def _inside(part: Dimension, value: Any) -> Space:
    return part.inside.get(value, {}) if isinstance(part, Choice) and part.inside else {}


def _fits(part: Dimension, value: Any) -> bool:
    if isinstance(part, Choice):
        return _label(value) in map(_label, part.options)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and part.low <= value <= part.high and (part.count() is None or value in values(part))


def _distribution(part: Dimension) -> BaseDistribution:
    if isinstance(part, Choice):
        return CategoricalDistribution([_label(option) for option in part.options])
    if part.whole:
        return IntDistribution(int(part.low), int(part.high), log=part.log, step=int(part.step or 1))
    return FloatDistribution(part.low, part.high, log=part.log, step=part.step)


def _label(option: Any) -> str:
    """An option as text: Optuna takes no lists, and 1 and true for the same."""
    return json.dumps(option, sort_keys=True)


def _suggest(trial: Trial, name: str, part: Dimension) -> Any:
    if isinstance(part, Choice):
        labels = [_label(option) for option in part.options]
        return part.options[labels.index(str(trial.suggest_categorical(name, labels)))]
    if part.whole:
        return trial.suggest_int(name, int(part.low), int(part.high), step=int(part.step or 1), log=part.log)
    drawn = trial.suggest_float(name, part.low, part.high, step=part.step, log=part.log)
    return drawn if part.step is None else part.at(round((drawn - part.low) / part.step))


class PerTrialSampler(BaseSampler):
    """The sampler of a strategy, made anew for each trial with a seed of its own: many short-lived processes would
    else all draw the same."""

    def __init__(self, strategy: Mapping[str, Any], space: Space) -> None:
        """
        Args:
            strategy: by the keys of `experiments.config.schema.StrategySchema`.
            space: what is drawn from.
        """
        self._strategy, self._space = strategy, space
        self._inner: BaseSampler = RandomSampler()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner = _sampler(self._strategy, self._space, trial.number)
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


def _sampler(strategy: Mapping[str, Any], space: Space, number: int) -> BaseSampler:
    seed = random.Random(f"{strategy['seed']}/{number}").getrandbits(31)
    name, startup = strategy["name"], strategy["startup_points"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "tpe":  # it takes running trials for bad ones, which keeps those that run side by side apart
            group = is_conditional(space)
            return TPESampler(n_startup_trials=startup, seed=seed, multivariate=True, group=group, constant_liar=True)
        if name == "cmaes":
            margin = any(isinstance(part, Interval) and part.count() is not None for part in space.values())
            return CmaEsSampler(
                n_startup_trials=startup, seed=seed, warn_independent_sampling=False, with_margin=margin
            )
        if name == "gp":
            return GPSampler(n_startup_trials=startup, seed=seed, warn_independent_sampling=False)
    return RandomSampler(seed=seed)
