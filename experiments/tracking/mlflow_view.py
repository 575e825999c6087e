"""The page of MLflow's UI that shows one sweep: its charts, columns and filter, saved as a view that a link opens."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from experiments.sweep.space import Choice, Dimension, list_keys
from experiments.sweep.space_parser import parse
from experiments.sweep.sweep import Sweep, format_reference
from experiments.tracking.store_uri import StoreError, is_server, resolve_store, strip_login
from experiments.trial.parameters import clean_key

TAG = "mlflow.sharedViewState."
"""MLflow's UI reads a view from the tag of an experiment whose name this begins."""
KNOWN_VERSIONS = range(3, 4)
"""Major versions of MLflow whose UI is known to read such a tag: nothing promises it (3.17, 2026-11)."""
MAX_TAG_CHARS = 20_000
"""Characters of an experiment's tag that MLflow 3.17 takes."""
MAX_SCATTERS = 8
LOSS = "train/loss_nats"
SECTIONS = {"Sweep": 2, "Curves": 2, "Differences": 1}
"""Of the charts, and in how many columns they stand."""
COLUMN_PX, CARD_PX = 150, 360
UNSTORED: dict[str, Any] = {"datasetsFilter": [], "lifecycleFilter": "Active", "modelVersionFilter": "All Runs"}


class SavedView(NamedTuple):
    """A saved view, as the tag of an experiment that keeps it."""

    key: str
    """What the link names."""
    text: str

    @property
    def tag(self) -> str:
        return TAG + self.key


def make_view(sweep: Sweep) -> SavedView | None:
    """A sweep's view; None where it is larger than MLflow takes. A pure function of the question and the sweep's key."""
    question, made_ms = sweep.spec, round(float(sweep.provenance.get("created", 0.0)) * 1000)
    packed = base64.b64encode(zlib.compress(json.dumps(make_view_state(question, sweep.key)).encode())).decode()
    told = {"name": f"sweep {sweep.name}", "createdAt": made_ms, "updatedAt": made_ms, "state": f"deflate;{packed}"}
    text = json.dumps(told)
    return SavedView(sweep.key[:12], text) if len(text) <= MAX_TAG_CHARS else None


def make_view_state(question: Mapping[str, Any], sweep_key: str) -> dict[str, Any]:
    """What the page shows, in the words of MLflow's UI.

    Args:
        question: by the keys of `experiments.config.schema.SweepSchema`.
        sweep_key: which all runs of the sweep's trials have in a tag.
    """
    swept = list_swept_keys(question)
    columns = [*(f"params.`{key}`" for key in swept), f"metrics.`{clean_key(question['metric'])}`"]
    return {
        **make_search(question, sweep_key), **UNSTORED, "startTime": "ALL",
        "selectedColumns": columns, "columnOrder": columns, "columnWidths": dict.fromkeys(columns, COLUMN_PX),
        "compareRunCharts": make_charts(question), "compareRunSections": [_section(*section) for section in SECTIONS.items()],
        "isAccordionReordered": True,  # else the sections stand in the order of the alphabet
        "runsHiddenMode": "SHOW_ALL", "runsHidden": [], "runsVisibilityMap": {}, "runsPinned": [], "runsExpanded": {},
        "hideEmptyCharts": True, "viewMaximized": False, "runListHidden": False, "autoRefreshEnabled": True,
        "groupBy": None, "groupsExpanded": {}, "useGroupedValuesInCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }  # fmt: skip


def make_search(question: Mapping[str, Any], sweep_key: str) -> dict[str, Any]:
    """Which runs are shown: the sweep's trials, the best first. Only a list by a metric has them beside their parent."""
    return {
        "searchFilter": make_filter(sweep_key),
        "orderByKey": f"metrics.`{clean_key(question['metric'])}`",
        "orderByAsc": question["mode"] == "min",
    }


def make_filter(sweep_key: str) -> str:
    """What finds the runs of a sweep's trials, in the language of MLflow's search."""
    return f"tags.`lathe.sweep_key` = '{sweep_key}' and tags.`lathe.kind` = 'trial'"


def make_charts(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The question's charts: all that varies at once, each of it against the metric, two numbers, then curves."""
    metric, swept, numbers = clean_key(question["metric"]), list_swept_keys(question), list_numeric_keys(question)
    value = {"key": metric, "type": "METRIC"}
    found: list[dict[str, Any]] = []
    if common := list_common_keys(question):
        found.append({"type": "PARALLEL", "selectedParams": common, "selectedMetrics": [metric], "showAllRuns": True})
    found += [{"type": "SCATTER", "xaxis": _axis(key), "yaxis": value} for key in swept[:MAX_SCATTERS]]
    if len(numbers) > 1:
        found.append({"type": "CONTOUR", "xaxis": _axis(numbers[0]), "yaxis": _axis(numbers[1]), "zaxis": value})
    placed = [{**chart, "metricSectionId": "Sweep"} for chart in found]
    placed += [{**_curve(name), "metricSectionId": "Curves"} for name in dict.fromkeys([metric, LOSS])]
    placed.append({**_differences(), "metricSectionId": "Differences"})
    every = {"deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    return [{"uuid": f"chart-{number}", **every, **chart} for number, chart in enumerate(placed)]


def _axis(key: str) -> dict[str, str]:
    return {"key": key, "type": "PARAM"}


def _differences() -> dict[str, Any]:
    """A table of the parameters and metrics that the trials differ by."""
    return {
        "type": "DIFFERENCE", "chartName": "What the trials differ by", "compareGroups": ["Parameters", "Model metrics"],
        "showDifferencesOnly": True, "showChangeFromBaseline": False, "baselineColumnUuid": "",
    }  # fmt: skip


def _curve(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE", "displayName": metric, "metricKey": metric, "selectedMetricKeys": [metric], "xAxisKey": "step",
        "lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True,
        "scaleType": "linear", "xAxisScaleType": "linear", "yAxisKey": "metric", "yAxisExpressions": [], "range": {},
    }  # fmt: skip


def _section(name: str, columns: int) -> dict[str, Any]:
    common = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": name, "name": name, "columns": columns, "cardHeight": CARD_PX, **common}


def list_swept_keys(question: Mapping[str, Any]) -> list[str]:
    """What varies, as MLflow's parameters are called."""
    return _cleaned([*list_keys(parse(question["space"])), *(key for point in _given(question) for key in point)])


def list_common_keys(question: Mapping[str, Any]) -> list[str]:
    """Of what varies, that which every trial has: a line through parallel coordinates needs a value on each."""
    given = _given(question)
    return _cleaned([*parse(question["space"]), *(key for key in given[0] if all(key in point for point in given))])


def list_numeric_keys(question: Mapping[str, Any]) -> list[str]:
    """Of what varies in every trial, that which is always a number."""
    return _cleaned([key for key, part in parse(question["space"]).items() if _is_numeric(part)])


def _cleaned(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(map(clean_key, names)))


def _given(question: Mapping[str, Any]) -> list[list[str]]:
    """The keys of every point that was given; one of none where none was."""
    points = [[str(typed).lstrip("+~").partition("=")[0] for typed in point] for point in question["points"]]
    return points or [[]]


def _is_numeric(part: Dimension) -> bool:
    if not isinstance(part, Choice):
        return True
    return all(isinstance(option, (int, float)) and not isinstance(option, bool) for option in part.options)


def has_saved_views(version: str | None) -> bool:
    """Whether the UI of this version of MLflow reads saved views from tags."""
    major = (version or "").partition(".")[0]
    return major.isdecimal() and int(major) in KNOWN_VERSIONS


def make_page_path(question: Mapping[str, Any], sweep_key: str, experiment_id: str, view_key: str | None) -> str:
    """The part of a link after an address, for any server that shows the store.

    Args:
        question: by the keys of `experiments.config.schema.SweepSchema`.
        sweep_key: of the sweep.
        experiment_id: of MLflow's experiment in that store.
        view_key: of the saved view; None where the store took none: the page is then filtered and sorted, with the
            charts that MLflow chooses.
    """
    # Without `workflowType` MLflow 3 opens a page about traces.
    told = {"workflowType": "machine_learning", "compareRunsMode": "CHART"}
    if view_key:
        told = {"viewStateShareKey": view_key, **told}
    else:
        wanted = make_search(question, sweep_key)
        told |= {**wanted, "orderByAsc": str(wanted["orderByAsc"]).lower(), "startTime": "ALL"}
    return f"#/experiments/{experiment_id}/runs?{urlencode(told, quote_via=quote)}"


class ViewLocation(NamedTuple):
    """Where a sweep stands in its store, by what the last sync noted."""

    experiment_id: str
    view_key: str | None
    uri: str | None
    """Of the store; None where a variable that it is written with is not set here."""


def find_location(sweep: Sweep) -> ViewLocation | None:
    """Where a sweep stands in its store; None where it was not brought there."""
    try:
        told = json.loads((sweep.folder / "sync.json").read_text())
        written, experiment_id, view_key = str(told["store"]), str(told["experiment_id"]), str(told.get("view_key", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not experiment_id:
        return None
    try:
        return ViewLocation(experiment_id, view_key or None, resolve_store(written, sweep.runs_dir))
    except StoreError:
        return ViewLocation(experiment_id, view_key or None, None)


def make_link(sweep: Sweep, address: str) -> str:
    """The page of a sweep in MLflow's UI.

    Args:
        sweep: which.
        address: of a server that shows the sweep's store, such as ``http://127.0.0.1:5000``.

    Raises:
        StoreError: the sweep was not brought to a store.
    """
    found = find_location(sweep)
    if found is None:
        raise StoreError(
            f"sweep '{sweep.name}' is in no store, so there is nothing to show; `lathe sync {sweep.name}` first"
        )
    return f"{address.rstrip('/')}/{make_page_path(sweep.spec, sweep.key, found.experiment_id, found.view_key)}"


def ui_hint(sweep: Sweep) -> str:
    """What a person who looks at a sweep does to see its trials side by side in MLflow."""
    found, name = find_location(sweep), format_reference(sweep)
    if found is not None and found.uri is not None and is_server(found.uri):
        return f"side by side in MLflow: {make_link(sweep, strip_login(found.uri))}"
    command = f"`lathe ui --sweep {name}` shows the trials side by side in MLflow"
    template = json.loads((sweep.folder / "templates.json").read_text())[0]
    is_brought = found is not None or template["config"].get("tracking", {}).get("sync") == "live"
    return command if is_brought else f"{command}, once `lathe sync {name}` has brought them there"


def list_newest(runs_dir: Path, uri: str, most: int) -> list[Sweep]:
    """The sweeps of a folder that stand in a store, those that began last first."""
    paths = sorted(runs_dir.glob("*/sweep.yaml"), key=lambda path: -path.stat().st_mtime)
    found = (Sweep(path.parent.resolve()) for path in paths)
    return list(islice((sweep for sweep in found if is_in_store(sweep, uri)), most))


def is_in_store(sweep: Sweep, uri: str) -> bool:
    """Whether a sweep stands in this store."""
    found = find_location(sweep)
    return found is not None and found.uri == uri
