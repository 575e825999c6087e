"""Which parameter of a sweep mattered, by one of Optuna's analyses of variance."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.core import figures
from experiments.results.report.axis_scale import make_scale, shorten
from experiments.results.report.findings import Findings, ReportRun

if TYPE_CHECKING:
    import optuna

MIN_RUNS = 8
"""Finished trials below which a share would be chance."""
FEW_RUNS = 20
MAX_BARS = 15
FANOVA = "fANOVA (Hutter et al. 2014): shares of the variance of {metric}"
PED_ANOVA = "PED-ANOVA (Watanabe et al. 2023): what sets the best tenth by {metric} apart"
MAX_FANOVA_CELLS = 600
"""Trials times parameters up to which fANOVA takes a few seconds; it takes the square of them."""


@dataclass(frozen=True)
class Importance:
    """How much single parameters matter."""

    shares: dict[str, float]
    """By key, the largest first, together 1."""
    method: str
    num_runs: int
    left_out: tuple[str, ...]
    """Keys that only some points have."""


def compute_importance(findings: Findings) -> Importance | str:
    """The shares, or why there are none."""
    runs = [run for run in findings.runs if run.state == "finished" and run.is_measured]
    if not findings.varying:
        return "No parameter varies."
    if len(runs) < MIN_RUNS:
        return f"{len(runs)} finished {'trial is' if len(runs) == 1 else 'trials are'} too few to tell; it takes {MIN_RUNS}."
    if len({run.value for run in runs}) == 1:
        return f"All finished trials have the same {findings.metric}."
    keys = [key for key in findings.varying if all(key in run.values for run in runs)]
    left_out = tuple(key for key in findings.varying if key not in keys)
    keys = [key for key in keys if len({repr(run.values[key]) for run in runs}) > 1]
    if not keys:
        return "Every parameter that varies is one that only some points have."
    is_large = len(runs) * len(keys) > MAX_FANOVA_CELLS
    shares = _compute_fractions(runs, keys, findings.mode, is_large)
    return Importance(shares, PED_ANOVA if is_large else FANOVA, len(runs), left_out)


def _compute_fractions(runs: Sequence[ReportRun], keys: Sequence[str], mode: str, is_large: bool) -> dict[str, float]:
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    distributions = {key: _infer_distribution([run.values[key] for run in runs]) for key in keys}
    for run in sorted(runs, key=lambda run: (run.point, run.seed)):
        params = {
            key: _make_label(run.values[key]) if isinstance(distribution, CategoricalDistribution) else run.values[key]
            for key, distribution in distributions.items()
        }
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=run.value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator() if is_large else FanovaImportanceEvaluator(seed=0)
        return dict(get_param_importances(study, evaluator=evaluator))


def _infer_distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    """What the values of a key were drawn from, as far as they tell."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    kind = make_scale(values).kind
    if kind == "words":
        return CategoricalDistribution(list(dict.fromkeys(_make_label(value) for value in values)))
    return FloatDistribution(float(min(values)), float(max(values)), log=kind == "logarithms")


def _make_label(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def draw(found: Importance, findings: Findings) -> figures.Picture:
    """The shares as bars."""
    shares = list(found.shares.items())[:MAX_BARS]
    with figures.drawing(1, 1, 0.7 + 0.3 * len(shares)) as (figure, (axis,)):
        names = [shorten(findings.short[key], 34) for key, _ in shares]
        axis.barh(range(len(shares)), [share for _, share in shares], height=0.46, color=figures.SERIES[0])
        for at, (_, share) in enumerate(shares):
            axis.text(share + 0.008, at, f"{share:.0%}", va="center", ha="left", color=figures.INK)
        axis.set_yticks(range(len(shares)), names)
        axis.tick_params(axis="y", labelcolor=figures.INK)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.06)
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.spines[["bottom", "left"]].set_visible(False)
        told = ", ".join(f"{findings.short[key]} {share:.0%}" for key, share in shares)
        return figures.picture(
            figure, "importance", title="Parameter importance", caption=_make_caption(found, findings),
            alt=f"Importance of parameters: {told}", tips=figures.Tips(),
        )  # fmt: skip


def _make_caption(found: Importance, findings: Findings) -> str:
    words = [f"By Optuna's {found.method.format(metric=findings.metric)}, over {found.num_runs} finished trials."]
    words += [f"{found.num_runs} trials are few: take it for a hint."] if found.num_runs < FEW_RUNS else []
    if found.left_out:
        words.append(
            f"Left out, as only some points have them: {', '.join(findings.short[key] for key in found.left_out)}."
        )
    return " ".join(words)
