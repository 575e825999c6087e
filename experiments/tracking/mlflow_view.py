"""The page of MLflow's UI for one sweep: charts, columns and filter, saved as a view that a link opens."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from experiments.core.files.read_file import DamagedFileError, read_json_map
from experiments.run.metrics import delivered_name
from experiments.sweep.space import Choice, Dimension, list_keys
from experiments.sweep.space_parser import parse
from experiments.sweep.sweep import Sweep, format_reference
from experiments.sweep.templates import read_templates
from experiments.tracking.store_uri import StoreError, is_server, resolve_store, strip_login
from experiments.tracking.trackers.mlflow_metric import make_metric_name
from experiments.trial.parameters import clean_key

TAG = "mlflow.sharedViewState."
"""Prefix of the experiment tags from which MLflow's UI reads saved views."""
KNOWN_VERSIONS = range(3, 4)
"""Major versions of MLflow whose UI reads such a tag; the behaviour is not documented (3.17, 2026-11)."""
MAX_TAG_CHARS = 20_000
"""Limit of MLflow 3.17 for the tag of an experiment."""
MAX_SCATTERS = 8
LOSS = "train/loss_nats"
SECTIONS = {"Sweep": 2, "Curves": 2, "Differences": 1}
"""Sections of charts, with their number of columns."""
COLUMN_PX, CARD_PX = 150, 360
UNSTORED: dict[str, Any] = {"datasetsFilter": [], "lifecycleFilter": "Active", "modelVersionFilter": "All Runs"}


class SavedView(NamedTuple):
    """A saved view, stored as the tag of an experiment."""

    key: str
    """The key of the view in a link."""
    text: str

    @property
    def tag(self) -> str:
        return TAG + self.key


def make_view(sweep: Sweep) -> SavedView | None:
    """Make the view of a sweep from its spec and key; None if it is too large for MLflow."""
    spec, created_ms = sweep.spec, round(float(sweep.provenance.get("created", 0.0)) * 1000)
    packed = base64.b64encode(zlib.compress(json.dumps(make_view_state(spec, sweep.key)).encode())).decode()
    saved = {
        "name": f"sweep {sweep.name}",
        "createdAt": created_ms,
        "updatedAt": created_ms,
        "state": f"deflate;{packed}",
    }
    text = json.dumps(saved)
    return SavedView(sweep.key[:12], text) if len(text) <= MAX_TAG_CHARS else None


def make_view_state(spec: Mapping[str, Any], sweep_key: str) -> dict[str, Any]:
    """Make the state of the page in the format of MLflow's UI.

    Args:
        spec: by the keys of `experiments.config.schema.SweepSchema`.
        sweep_key: the tag that all runs of the sweep share.
    """
    swept = list_swept_keys(spec)
    columns = [*(f"params.`{key}`" for key in swept), _value_column(spec)]
    return {
        **make_search(spec, sweep_key), **UNSTORED, "startTime": "ALL",
        "selectedColumns": columns, "columnOrder": columns, "columnWidths": dict.fromkeys(columns, COLUMN_PX),
        "compareRunCharts": make_charts(spec), "compareRunSections": [_section(*section) for section in SECTIONS.items()],
        "isAccordionReordered": True,  # else the sections are in alphabetical order
        "runsHiddenMode": "SHOW_ALL", "runsHidden": [], "runsVisibilityMap": {}, "runsPinned": [], "runsExpanded": {},
        "hideEmptyCharts": True, "viewMaximized": False, "runListHidden": False, "autoRefreshEnabled": True,
        "groupBy": None, "groupsExpanded": {}, "useGroupedValuesInCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }  # fmt: skip


def make_search(spec: Mapping[str, Any], sweep_key: str) -> dict[str, Any]:
    """Select the trials of the sweep, best first. Sorting by a metric also hides the parent run."""
    return {
        "searchFilter": make_filter(sweep_key),
        "orderByKey": _value_column(spec),
        "orderByAsc": spec["mode"] == "min",
    }


def _value_column(spec: Mapping[str, Any]) -> str:
    """The column of the value that ranks the trials; that of the metric itself shows the last point of its curve."""
    return f"metrics.`{make_metric_name(delivered_name(spec['metric']))}`"


def make_filter(sweep_key: str) -> str:
    """Make the filter for the trials of a sweep, in the language of MLflow's search."""
    return f"tags.`lathe.sweep_key` = '{sweep_key}' and tags.`lathe.kind` = 'trial'"


def make_charts(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the charts: parallel coordinates, one scatter plot per key, a contour plot, then curves."""
    metric, swept, numbers = make_metric_name(spec["metric"]), list_swept_keys(spec), list_numeric_keys(spec)
    ranked = make_metric_name(delivered_name(spec["metric"]))
    value = {"key": ranked, "type": "METRIC"}
    charts: list[dict[str, Any]] = []
    if common := list_common_keys(spec):
        charts.append({"type": "PARALLEL", "selectedParams": common, "selectedMetrics": [ranked], "showAllRuns": True})
    charts += [{"type": "SCATTER", "xaxis": _axis(key), "yaxis": value} for key in swept[:MAX_SCATTERS]]
    if len(numbers) > 1:
        charts.append({"type": "CONTOUR", "xaxis": _axis(numbers[0]), "yaxis": _axis(numbers[1]), "zaxis": value})
    placed = [{**chart, "metricSectionId": "Sweep"} for chart in charts]
    placed += [{**_curve(name), "metricSectionId": "Curves"} for name in dict.fromkeys([metric, LOSS])]
    placed.append({**_differences(), "metricSectionId": "Differences"})
    every = {"deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    return [{"uuid": f"chart-{number}", **every, **chart} for number, chart in enumerate(placed)]


def _axis(key: str) -> dict[str, str]:
    return {"key": key, "type": "PARAM"}


def _differences() -> dict[str, Any]:
    """Make the table of parameters and metrics that differ between trials."""
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


def list_swept_keys(spec: Mapping[str, Any]) -> list[str]:
    """List the keys that vary, as the names of MLflow parameters."""
    return _cleaned([*list_keys(parse(spec["space"])), *(key for point in _given(spec) for key in point)])


def list_common_keys(spec: Mapping[str, Any]) -> list[str]:
    """List the keys that vary and that every trial has: parallel coordinates need a value on each axis."""
    given = _given(spec)
    return _cleaned([*parse(spec["space"]), *(key for key in given[0] if all(key in point for point in given))])


def list_numeric_keys(spec: Mapping[str, Any]) -> list[str]:
    """List the keys that vary in every trial and are always numbers."""
    return _cleaned([key for key, part in parse(spec["space"]).items() if _is_numeric(part)])


def _cleaned(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(map(clean_key, names)))


def _given(spec: Mapping[str, Any]) -> list[list[str]]:
    """List the keys of every given point; one empty list if no points are given."""
    points = [[str(override).lstrip("+~").partition("=")[0] for override in point] for point in spec["points"]]
    return points or [[]]


def _is_numeric(part: Dimension) -> bool:
    if not isinstance(part, Choice):
        return True
    return all(isinstance(option, (int, float)) and not isinstance(option, bool) for option in part.options)


def has_saved_views(version: str | None) -> bool:
    """Whether the UI of this version of MLflow reads saved views from tags."""
    major = (version or "").partition(".")[0]
    return major.isdecimal() and int(major) in KNOWN_VERSIONS


def make_page_path(spec: Mapping[str, Any], sweep_key: str, experiment_id: str, view_key: str | None) -> str:
    """Make the part of a link after the address of a server that shows the store.

    Args:
        spec: by the keys of `experiments.config.schema.SweepSchema`.
        sweep_key: key of the sweep.
        experiment_id: id of the experiment in that store.
        view_key: key of the saved view; None: the page is filtered and sorted, with the default charts of MLflow.
    """
    # Without `workflowType` MLflow 3 opens a page about traces.
    query = {"workflowType": "machine_learning", "compareRunsMode": "CHART"}
    if view_key:
        query = {"viewStateShareKey": view_key, **query}
    else:
        selection = make_search(spec, sweep_key)
        query |= {**selection, "orderByAsc": str(selection["orderByAsc"]).lower(), "startTime": "ALL"}
    return f"#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"


class ViewLocation(NamedTuple):
    """The location of a sweep in its store, as the last sync recorded it."""

    experiment_id: str
    view_key: str | None
    uri: str | None
    """URI of the store; None if it uses an environment variable that is not set."""


def find_location(sweep: Sweep) -> ViewLocation | None:
    """Find the location of a sweep in its store; None if it was never synced."""
    try:
        synced = read_json_map(sweep.folder / "sync.json")
        written, experiment_id, view_key = (
            str(synced["store"]),
            str(synced["experiment_id"]),
            str(synced.get("view_key", "")),
        )
    except (DamagedFileError, KeyError):
        return None
    if not experiment_id:
        return None
    try:
        return ViewLocation(experiment_id, view_key or None, resolve_store(written, sweep.runs_dir))
    except StoreError:
        return ViewLocation(experiment_id, view_key or None, None)


def make_link(sweep: Sweep, address: str) -> str:
    """Make the link to the page of a sweep in MLflow's UI.

    Args:
        sweep: the sweep.
        address: address of a server that shows the sweep's store, such as ``http://127.0.0.1:5000``.

    Raises:
        StoreError: the sweep was never synced.
    """
    location = find_location(sweep)
    if location is None:
        raise StoreError(
            f"sweep '{sweep.name}' is not in a store, so MLflow cannot show it; run `lathe sync {sweep.name}` first"
        )
    return f"{address.rstrip('/')}/{make_page_path(sweep.spec, sweep.key, location.experiment_id, location.view_key)}"


def ui_hint(sweep: Sweep) -> str:
    """Format the hint how to compare the trials of a sweep in MLflow."""
    location, name = find_location(sweep), format_reference(sweep)
    if location is not None and location.uri is not None and is_server(location.uri):
        return f"compare the trials in MLflow: {make_link(sweep, strip_login(location.uri))}"
    command = f"`lathe ui --sweep {name}` compares the trials in MLflow"
    is_synced = (
        location is not None or read_templates(sweep.folder)[0]["config"].get("tracking", {}).get("sync") == "live"
    )
    return command if is_synced else f"{command}; run `lathe sync {name}` first"


def list_newest(runs_dir: Path, uri: str, most: int) -> list[Sweep]:
    """List the sweeps of a folder that are in a store, newest first."""
    paths = sorted(runs_dir.glob("*/sweep.yaml"), key=lambda path: -path.stat().st_mtime)
    sweeps = (Sweep(path.parent.resolve()) for path in paths)
    return list(islice((sweep for sweep in sweeps if is_in_store(sweep, uri)), most))


def is_in_store(sweep: Sweep, uri: str) -> bool:
    """Whether a sweep is in this store."""
    location = find_location(sweep)
    return location is not None and location.uri == uri
