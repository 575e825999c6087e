"""Whether one run repeats another: on what terms they are compared, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from experiments.results.compare.differences import MACHINE, differences
from experiments.run.metric_comparison import Divergence, compare, distance
from experiments.trial.parameters import parameters
from experiments.trial.record import CodeRecord

Word = Literal["identical", "within tolerance", "different", "stopped"]

EARLY_STEPS = 20
"""What rounding adds to a loss was measured over so many (docs/parallelism.md); later it grows with the training."""
TOLERANCES = {"fp32": 1e-5}
"""Relative distance by precision that other sums, in another order, may make in that time: 50 times what was measured."""
HALF_TOLERANCE = 2e-2
END_TOLERANCE = 0.2
"""Relative distance that the last values of an evaluation may have where rounding has had a whole training to grow."""
OTHER_DEVICE = 1e-3
"""Between a CPU and a GPU, or two kinds of GPU: convolutions there may round to TF32, by up to 5e-4."""
LAYOUT = ("hardware.nodes", "hardware.device", "batch_size_per_device", "batch_size_eval")
"""Keys of the configuration that say where and how a training runs, not what it computes."""


@dataclass(frozen=True)
class ReproductionTerms:
    """How closely two runs have to agree, and why not bit for bit."""

    tolerance: float
    judged_to: int | None
    """Last step that is judged; None: all."""
    up_to: int | None
    """Last step that is looked at; None: all."""
    reasons: Sequence[str]


@dataclass(frozen=True)
class Verdict:
    """What came of a comparison."""

    word: Word
    terms: ReproductionTerms
    partings: Sequence[Divergence]
    """Of all metrics, at all steps that are looked at, bit for bit."""
    first_step: int | None
    """Where they part by more than the tolerance."""
    why: str | None = None
    """What else is amiss: points that are missing, or how the run ended."""

    @property
    def code(self) -> int:
        """Exit code: 0 where the one repeats the other."""
        return 0 if self.word in ("identical", "within tolerance") else 1

    @property
    def largest(self) -> float:
        return max((one.largest for one in self.partings), default=0.0)

    def sentence(self) -> str:
        """It, as a person reads it."""
        points = sum(one.num_common for one in self.partings)
        if self.word == "identical":
            return f"identical: {len(self.partings)} metrics, {points:,} points, bit for bit"
        told = f"{self.word}: the largest relative distance is {self.largest:.2g}"
        if self.word == "within tolerance":
            told += f" ({self.terms.tolerance:g} is allowed{self._window()})"
        elif self.first_step is not None:
            allowed = f" by more than {self.terms.tolerance:g}" if self.terms.tolerance else ""
            told += f"; they part at step {self.first_step}{allowed}"
        return told + (f"; {self.why}" if self.why else "")

    def _window(self) -> str:
        return "" if self.terms.judged_to is None else f" up to step {self.terms.judged_to}"

    def plain(self) -> dict[str, Any]:
        """It, as a file holds it."""
        return {
            "verdict": self.word,
            "told": self.sentence(),
            "why": self.why,
            "first_step": self.first_step,
            "largest": self.largest,
            "tolerance": self.terms.tolerance,
            "judged_to": self.terms.judged_to,
            "compared_to": self.terms.up_to,
            "not_bit_for_bit": list(self.terms.reasons),
            "metrics": [_plain(one) for one in self.partings],
        }


def _plain(one: Divergence) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(one).items()}


def terms(
    one: CodeRecord, other: CodeRecord, *, tolerance: float | None, up_to: int | None, mixed: Sequence[str] = ()
) -> ReproductionTerms:
    """On what terms the second record has to repeat the first.

    Args:
        one: of the original.
        other: of its repetition; its configuration is that of the attempt.
        tolerance: the user's, for every step; None: what follows from the two.
        up_to: last step that is looked at.
        mixed: what of the original's own attempts keeps it from being repeated bit for bit.
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
    if _are_apart(one) or _are_apart(other):
        allowed = END_TOLERANCE
    return ReproductionTerms(allowed, judged_to, up_to, reasons)


def _reasons(one: CodeRecord, other: CodeRecord) -> Iterator[str]:
    """Why the same bits cannot be asked for; on a CPU with the same layout, threads and torch there is none."""
    first, second = parameters(one.config), parameters(other.config)
    if _are_apart(one) or _are_apart(other):
        yield "replicas that do not wait for each other see weights in the order of chance: no two such runs are the same"
    if (before := _engine(one)) != (now := _engine(other)):
        yield f"parallel is {now} and was {before}"
    for key in dict.fromkeys([*first, *second]):
        if key.startswith(LAYOUT) and first.get(key) != second.get(key):
            yield f"{key} is {second.get(key, 'not there')} and was {first.get(key, 'not there')}"
    found = differences(one, other)
    for difference in [*found.groups["hardware"], *found.groups["environment"]]:
        if difference.key in (*MACHINE, "torch"):
            yield f"{difference.key} is {difference.other} and was {difference.one}"
    devices = {record.environment.get("device_name") for record in (one, other)} - {None, "cpu"}
    if devices and one.config.get("determinism") != "bitwise":
        yield f"{devices.pop()} adds in no fixed order but with determinism=bitwise"


def _are_apart(record: CodeRecord) -> bool:
    """Whether several replicas trained by parameter servers, out of step."""
    parallel = record.config.get("parallel") or {}
    replicas = (record.config.get("hardware") or {}).get("devices_per_node", 1)
    return "servers" in parallel and parallel.get("max_staleness") != 0 and (parallel.get("data") or replicas) != 1


def _engine(record: CodeRecord) -> str:
    """A record's `parallel` in one line: the class, and what it is given."""
    node = dict(record.config.get("parallel") or {})
    name = str(node.pop("_target_", "")).rpartition(".")[2].lower()
    return " ".join([name, *(f"{key}={value}" for key, value in node.items() if value is not None)])


def judge(
    one: CodeRecord,
    other: CodeRecord,
    on: ReproductionTerms,
    *,
    ended: str,
    why: str | None = None,
    data: Sequence[str] = (),
) -> Verdict:
    """Compare the metric streams of an original and its repetition.

    Args:
        one: of the original.
        other: of its repetition.
        on: the terms.
        ended: how the repetition ended: "finished", or "stopped" where it was not to go on.
        why: what it said of that.
        data: by what its data was not the original's, so that it repeats something else, whatever the metrics are.
    """
    found = compare(one.streams, other.streams, up_to=on.up_to)
    partings = [part for part in found if part.num_common or part.only_in != (0, 0)]
    judged = compare(one.streams, other.streams, tolerance=on.tolerance, up_to=on.judged_to)
    first = min((part.first_step for part in judged if part.first_step is not None), default=None)
    missing = _missing(partings, one) if ended == "finished" else None
    other_end = _other_end(partings) if on.judged_to != on.up_to else None
    common = sum(part.num_common for part in judged)
    if data or first is not None or other_end or (ended != "stopped" and (missing or not common)):
        word: Word = "different"
    elif ended == "stopped":
        word = "stopped"
    elif all(part.first_step is None for part in partings):
        word = "identical"
    else:
        word = "within tolerance"
    amiss = next(filter(None, (why, *data, missing, other_end)), None)
    return Verdict(word, on, partings, first, amiss or (None if common else "they have no step in common"))


def _other_end(partings: Sequence[Divergence]) -> str | None:
    """By what two runs that began alike have come to other results; rounding alone does not bring that about."""
    for part in partings:
        if math.isinf(part.largest):
            return f"{part.name} is a number in one of the two alone"
        if part.last is not None and part.name.startswith(("val/", "test/")) and distance(*part.last) > END_TOLERANCE:
            last = " and ".join(f"{value:.4g}" for value in part.last)
            return f"they end apart: {part.name} is {last}, more than {END_TOLERANCE:.0%}"
    return None


def _missing(partings: Sequence[Divergence], one: CodeRecord) -> str | None:
    """Points that only one of the two has; a sampled record lacks some by its nature."""
    for part in partings:
        first, second = part.only_in
        if first or (second and not one.is_sampled):
            return (
                f"points of {part.name} that only the {'original' if first else 'repetition'} has: {first or second:,}"
            )
    return None


def last_step(streams: Mapping[str, Sequence[tuple[int, float]]]) -> int:
    """The last step that a record has a point of; 0 where it has none."""
    return max((step for points in streams.values() for step, _ in points), default=0)
