"""Estimates how much each parameter of a sweep matters, with an analysis of variance from Optuna."""

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
"""With fewer finished trials an estimate is noise."""
FEW_RUNS = 20
MAX_BARS = 15
FANOVA = "fANOVA (Hutter et al. 2014): fractions of the variance of {metric}"
PED_ANOVA = "PED-ANOVA (Watanabe et al. 2023): what distinguishes the best tenth by {metric}"
MAX_FANOVA_CELLS = 600
"""Trials times parameters up to which fANOVA takes a few seconds; its time grows with the square."""


@dataclass(frozen=True)
class Importance:
    """How much each parameter matters."""

    fractions: dict[str, float]
    """By key, largest first; they sum to 1."""
    method: str
    num_runs: int
    left_out: tuple[str, ...]
    """Keys that only some points set."""


def compute_importance(findings: Findings) -> Importance | str:
    """Compute the importance, or return the reason why that is not possible."""
    runs = [run for run in findings.runs if run.state == "finished" and run.is_measured]
    if not findings.varying:
        return "No parameter varies."
    if len(runs) < MIN_RUNS:
        return f"{len(runs)} finished {'trial is' if len(runs) == 1 else 'trials are'} too few; at least {MIN_RUNS} are needed."
    if len({run.value for run in runs}) == 1:
        return f"All finished trials have the same {findings.value_name}."
    keys = [key for key in findings.varying if all(key in run.values for run in runs)]
    left_out = tuple(key for key in findings.varying if key not in keys)
    keys = [key for key in keys if len({repr(run.values[key]) for run in runs}) > 1]
    if not keys:
        return "Only some points set the parameters that vary."
    is_large = len(runs) * len(keys) > MAX_FANOVA_CELLS
    fractions = _compute_fractions(runs, keys, findings.mode, is_large)
    return Importance(fractions, PED_ANOVA if is_large else FANOVA, len(runs), left_out)


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
    """Infer from the values of a key which distribution they come from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    kind = make_scale(values).kind
    if kind == "categorical":
        return CategoricalDistribution(list(dict.fromkeys(_make_label(value) for value in values)))
    return FloatDistribution(float(min(values)), float(max(values)), log=kind == "log")


def _make_label(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def draw(importance: Importance, findings: Findings) -> figures.RenderedFigure:
    """Draw the importances as bars."""
    fractions = list(importance.fractions.items())[:MAX_BARS]
    with figures.new_figure(1, 1, 0.7 + 0.3 * len(fractions)) as (figure, (axis,)):
        names = [shorten(findings.short[key], 34) for key, _ in fractions]
        axis.barh(range(len(fractions)), [fraction for _, fraction in fractions], height=0.46, color=figures.SERIES[0])
        for row, (_, fraction) in enumerate(fractions):
            axis.text(fraction + 0.008, row, f"{fraction:.0%}", va="center", ha="left", color=figures.INK)
        axis.set_yticks(range(len(fractions)), names)
        axis.tick_params(axis="y", labelcolor=figures.INK)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.06)
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.spines[["bottom", "left"]].set_visible(False)
        summary = ", ".join(f"{findings.short[key]} {fraction:.0%}" for key, fraction in fractions)
        return figures.render(
            figure, "importance", title="Parameter importance", caption=_make_caption(importance, findings),
            alt=f"Importance of parameters: {summary}", tips=figures.Tooltips(),
        )  # fmt: skip


def _make_caption(importance: Importance, findings: Findings) -> str:
    sentences = [
        f"By Optuna's {importance.method.format(metric=findings.value_name)}, over {importance.num_runs} finished trials."
    ]
    sentences += (
        [f"{importance.num_runs} trials are few, so this is only a hint."] if importance.num_runs < FEW_RUNS else []
    )
    if importance.left_out:
        sentences.append(
            f"Left out, because only some points set them: {', '.join(findings.short[key] for key in importance.left_out)}."
        )
    return " ".join(sentences)
