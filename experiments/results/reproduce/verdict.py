"""Decides whether one run reproduces another: the tolerance of the comparison, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from experiments.config.rules.engine import read_engine
from experiments.results.compare.differences import MACHINE, differences
from experiments.run.metric_comparison import Divergence, compare, distance
from experiments.run.metrics import DELIVERED, DELIVERED_STEP, OF_DELIVERED, MetricSeries
from experiments.trial.parameters import flatten_config
from experiments.trial.record import RunRecord

Outcome = Literal["identical", "within tolerance", "different", "interrupted"]

EARLY_STEPS = 20
"""The effect of rounding on a loss was measured over this many steps (docs/parallelism.md); it grows later in training."""
TOLERANCES = {"fp32": 1e-5}
"""Relative distance by precision that sums in another order may cause in that time: 50 times the measured one."""
HALF_TOLERANCE = 2e-2
END_TOLERANCE = 0.2
"""Relative distance allowed for the last evaluation, after rounding has grown over a whole training."""
OTHER_DEVICE = 1e-3
"""Between a CPU and a GPU, or two kinds of GPU: convolutions may round to TF32, by up to 5e-4."""
RESULTS = ("val/", "test/", f"{DELIVERED}val/")
"""Prefixes of the metrics of an evaluation."""
LAYOUT = ("hardware.nodes", "hardware.device", "batch_size_per_device", "batch_size_eval")
"""Configuration keys that change where and how a training runs, not what it computes."""


@dataclass(frozen=True)
class ReproductionTerms:
    """How closely two runs must agree, and why not bit for bit."""

    tolerance: float
    judged_to: int | None
    """Last step to which the tolerance applies; None: all."""
    up_to: int | None
    """Last step that is compared; None: all."""
    reasons: Sequence[str]


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison."""

    outcome: Outcome
    terms: ReproductionTerms
    divergences: Sequence[Divergence]
    """Of all metrics at all compared steps, bit for bit."""
    first_step: int | None
    """The first step where they differ by more than the tolerance."""
    reason: str | None = None
    """Another problem: missing points, or how the run ended."""

    @property
    def code(self) -> int:
        """Exit code: 0 if the run is reproduced."""
        return 0 if self.outcome in ("identical", "within tolerance") else 1

    @property
    def largest(self) -> float:
        return max((one.largest for one in self.divergences), default=0.0)

    def sentence(self) -> str:
        """The verdict as one sentence."""
        points = sum(one.num_common for one in self.divergences)
        if self.outcome == "identical":
            return f"identical: {len(self.divergences)} metrics, {points:,} points, bit for bit"
        text = f"{self.outcome}: the largest relative distance is {self.largest:.2g}"
        if self.outcome == "within tolerance":
            text += f" ({self.terms.tolerance:g} is allowed{self._window()})"
        elif self.first_step is not None:
            allowed = f" by more than {self.terms.tolerance:g}" if self.terms.tolerance else ""
            text += f"; they differ from step {self.first_step}{allowed}"
        return text + (f"; {self.reason}" if self.reason else "")

    def _window(self) -> str:
        return "" if self.terms.judged_to is None else f" up to step {self.terms.judged_to}"

    def plain(self) -> dict[str, Any]:
        """The content of `verdict.yaml`."""
        return {
            "verdict": self.outcome,
            "summary": self.sentence(),
            "reason": self.reason,
            "first_step": self.first_step,
            "largest": self.largest,
            "tolerance": self.terms.tolerance,
            "judged_to": self.terms.judged_to,
            "compared_to": self.terms.up_to,
            "not_bit_for_bit": list(self.terms.reasons),
            "metrics": [_plain(one) for one in self.divergences],
        }


def _plain(one: Divergence) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(one).items()}


def choose_terms(
    one: RunRecord, other: RunRecord, *, tolerance: float | None, up_to: int | None, mixed: Sequence[str] = ()
) -> ReproductionTerms:
    """Choose how closely the second record must agree with the first.

    Args:
        one: the original.
        other: its repetition, with the configuration of the attempt.
        tolerance: from the user, for every step; None: derived from the two records.
        up_to: last step that is compared.
        mixed: why the attempts of the original cannot be repeated bit for bit.
    """
    reasons = [*mixed, *_reasons(one, other)]
    if tolerance is not None:
        return ReproductionTerms(tolerance, up_to, up_to, reasons)
    if not reasons:
        return ReproductionTerms(0.0, up_to, up_to, reasons)
    steps = [step for points in one.streams.values() for step, _ in points]
    early = max(EARLY_STEPS, min(steps, default=0))
    judged_to = early if up_to is None else min(early, up_to)
    allowed = TOLERANCES.get(str(one.config.get("precision")), HALF_TOLERANCE)
    names = [record.environment.get("device_name") for record in (one, other)]
    if None not in names and names[0] != names[1]:
        allowed = max(allowed, OTHER_DEVICE)
    if _is_asynchronous(one) or _is_asynchronous(other):
        allowed = END_TOLERANCE
    return ReproductionTerms(allowed, judged_to, up_to, reasons)


def _reasons(one: RunRecord, other: RunRecord) -> Iterator[str]:
    """Why the bits may differ; none on a CPU with the same layout, threads and torch."""
    first, second = flatten_config(one.config), flatten_config(other.config)
    if _is_asynchronous(one) or _is_asynchronous(other):
        yield "asynchronous replicas update weights in random order, so that no two such runs are the same"
    if (before := _engine(one)) != (now := _engine(other)):
        yield f"parallel is {now} and was {before}"
    for key in dict.fromkeys([*first, *second]):
        if key.startswith(LAYOUT) and first.get(key) != second.get(key):
            yield f"{key} is {second.get(key, 'not set')} and was {first.get(key, 'not set')}"
    groups = differences(one, other).groups
    for difference in [*groups["hardware"], *groups["environment"]]:
        if difference.key in (*MACHINE, "torch"):
            yield f"{difference.key} is {difference.other} and was {difference.one}"
    devices = {record.environment.get("device_name") for record in (one, other)} - {None, "cpu"}
    if devices and one.config.get("determinism") != "bitwise":
        yield f"{devices.pop()} adds numbers in a fixed order only with determinism=bitwise"


def _is_asynchronous(record: RunRecord) -> bool:
    """True if several replicas trained asynchronously with parameter servers."""
    engine = read_engine(record.config)
    replicas = (record.config.get("hardware") or {}).get("devices_per_node", 1)
    return engine.has("num_servers") and engine.get("max_staleness") != 0 and engine.get("data", replicas) != 1


def _engine(record: RunRecord) -> str:
    """The class and arguments of a record's `parallel` in one line."""
    node = dict(record.config.get("parallel") or {})
    name = str(node.pop("_target_", "")).rpartition(".")[2].lower()
    return " ".join([name, *(f"{key}={value}" for key, value in node.items() if value is not None)])


def judge(
    one: RunRecord,
    other: RunRecord,
    terms: ReproductionTerms,
    *,
    status: str,
    reason: str | None = None,
    data: Sequence[str] = (),
) -> Verdict:
    """Compare the metric streams of an original and its repetition.

    Args:
        one: the original.
        other: its repetition.
        terms: how closely they must agree.
        status: how the repetition ended: "finished", or "interrupted" if it was interrupted.
        reason: why it ended so.
        data: how its data differs; with other data it is no repetition, whatever the metrics are.
    """
    streams = _comparable_streams(one, other)
    everything = compare(*streams, up_to=terms.up_to)
    divergences = [part for part in everything if part.num_common or part.only_in != (0, 0)]
    judged = compare(*streams, tolerance=terms.tolerance, up_to=terms.judged_to)
    first = min((part.first_step for part in judged if part.first_step is not None), default=None)
    missing = _find_missing(divergences, one) if status == "finished" else None
    other_end = _find_other_end(divergences) if terms.judged_to != terms.up_to else None
    common = sum(part.num_common for part in judged)
    if data or first is not None or other_end or (status != "interrupted" and (missing or not common)):
        outcome: Outcome = "different"
    elif status == "interrupted":
        outcome = "interrupted"
    elif all(part.first_step is None for part in divergences):
        outcome = "identical"
    else:
        outcome = "within tolerance"
    problem = next(filter(None, (reason, *data, missing, other_end)), None)
    return Verdict(outcome, terms, divergences, first, problem or (None if common else "they have no step in common"))


def _comparable_streams(
    one: RunRecord, other: RunRecord
) -> tuple[Mapping[str, MetricSeries], Mapping[str, MetricSeries]]:
    """The metrics of both that were measured by the same rule.

    An original of an earlier version logged no delivered step, and measured the weights of its last step on the test split.
    """
    if DELIVERED_STEP in one.streams or DELIVERED_STEP not in other.streams:
        return one.streams, other.streams
    is_last_step = other.streams[DELIVERED_STEP][-1][1] == last_step(other.streams)
    left_out = (DELIVERED,) if is_last_step else OF_DELIVERED
    first, second = (
        {name: points for name, points in record.streams.items() if not name.startswith(left_out)}
        for record in (one, other)
    )
    return first, second


def _find_other_end(divergences: Sequence[Divergence]) -> str | None:
    """A difference in the last values that rounding alone does not explain."""
    for part in divergences:
        if math.isinf(part.largest):
            return f"{part.name} is a number in only one of the two"
        if part.last is not None and part.name.startswith(RESULTS) and distance(*part.last) > END_TOLERANCE:
            last = " and ".join(f"{value:.4g}" for value in part.last)
            return f"the results differ: {part.name} is {last}, by more than {END_TOLERANCE:.0%}"
    return None


def _find_missing(divergences: Sequence[Divergence], one: RunRecord) -> str | None:
    """Points that only one of the two has. Points that a sampled record lacks do not count."""
    for part in divergences:
        first, second = part.only_in
        if first or (second and not one.is_sampled):
            return (
                f"points of {part.name} that only the {'original' if first else 'repetition'} has: {first or second:,}"
            )
    return None


def last_step(streams: Mapping[str, Sequence[tuple[int, float]]]) -> int:
    """The last step with a metric; 0 without metrics."""
    return max((step for points in streams.values() for step, _ in points), default=0)
