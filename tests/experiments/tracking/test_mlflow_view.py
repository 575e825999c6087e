"""The page of a sweep in MLflow: the content of the saved view, and the links to it."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep.sweep import Sweep
from experiments.tracking import mlflow_client, mlflow_view
from experiments.tracking.store_uri import StoreError
from experiments.tracking.sweep_sync import SweepSync
from experiments.tracking.ui import serve
from tests.support import ledgers
from tests.support.recorded_sweeps import METRIC, VALUE, make_swept, read_run_tags, run_trial
from tests.support.stores import sql
from tests.support.workers import SPEC

SPACE = {
    "optimizer.lr": {"low": 0.001, "high": 0.1, "log": True},
    "model": {"mlp": {"model.width": [8, 16]}, "lenet": {}},
}


def charts(**spec: Any) -> list[dict[str, Any]]:
    return mlflow_view.make_charts({**SPEC, **spec})


def select_type(charts: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [chart for chart in charts if chart["type"] == kind]


def saved(runs_dir: Path) -> dict[str, Any]:
    """Read the only view in a store, with its state as the page reads it."""
    ((tag, text),) = sql(
        runs_dir / "mlflow.db", "select key, value from experiment_tags where key like 'mlflow.shared%'"
    )
    saved_view = json.loads(text)
    packed = saved_view.pop("state").removeprefix("deflate;")
    return {"tag": tag, **saved_view, "state": json.loads(zlib.decompress(base64.b64decode(packed)))}


def test_charts_follow_from_the_spec() -> None:
    made = charts(space={"optimizer.lr": [0.1, 0.2], "batch_size_global": [32, 64], "optimizer": ["sgd", "adamw"]})
    (parallel,), (contour,) = select_type(made, "PARALLEL"), select_type(made, "CONTOUR")
    assert parallel["selectedParams"] == ["optimizer.lr", "batch_size_global", "optimizer"]
    assert parallel["selectedMetrics"] == [VALUE]
    assert [chart["xaxis"]["key"] for chart in select_type(made, "SCATTER")] == parallel["selectedParams"]
    assert [contour[f"{axis}axis"]["key"] for axis in "xyz"] == ["optimizer.lr", "batch_size_global", VALUE]
    assert [chart["metricKey"] for chart in select_type(made, "LINE")] == [METRIC, "train/loss_nats"]
    assert len({chart["uuid"] for chart in made}) == len(made)
    assert {chart["metricSectionId"] for chart in made} == set(mlflow_view.SECTIONS)


@pytest.mark.parametrize(
    ("metric", "stored"),
    [("perf/samples_per_s", "system/perf_samples_per_s"), ("async/stale_fraction/0", "system/async_stale_fraction_0")],
)
def test_metric_of_the_machine_is_a_system_metric_of_mlflow(metric: str, stored: str) -> None:
    state = mlflow_view.make_view_state({**SPEC, "metric": metric}, "key")
    assert state["orderByKey"] == f"metrics.`{stored}`"
    assert select_type(state["compareRunCharts"], "LINE")[0]["metricKey"] == stored


def test_nested_key_is_not_an_axis_of_parallel_coordinates() -> None:
    made = charts(space=SPACE)
    assert select_type(made, "PARALLEL")[0]["selectedParams"] == ["optimizer.lr", "model"]
    assert [chart["xaxis"]["key"] for chart in select_type(made, "SCATTER")] == ["optimizer.lr", "model", "model.width"]
    assert select_type(made, "CONTOUR") == []  # it needs two numbers that every trial has


def test_given_points_have_charts_too() -> None:
    given = [["optimizer.lr=0.1", "+tags.team=a"], ["optimizer.lr=0.2", "model=mlp"]]
    spec = {**SPEC, "points": given, "strategy": {"name": "list"}}
    assert mlflow_view.list_swept_keys(spec) == ["optimizer.lr", "tags.team", "model"]
    assert mlflow_view.list_common_keys(spec) == ["optimizer.lr"]


@pytest.mark.parametrize("spec", [{}, {"space": {}}, {"metric": "train/loss_nats", "mode": "min"}])
def test_single_trial_has_only_curves(spec: dict[str, Any]) -> None:
    made = charts(**spec)
    assert {chart["type"] for chart in made} == {"LINE", "DIFFERENCE"}
    assert len(select_type(made, "LINE")) == (1 if "metric" in spec else 2)


@pytest.mark.parametrize(("mode", "ascending"), [("max", False), ("min", True)])
def test_the_state_filters_and_sorts(mode: str, ascending: bool) -> None:
    state = mlflow_view.make_view_state({**SPEC, "space": SPACE, "mode": mode}, "abc")
    assert state["searchFilter"] == "tags.`lathe.sweep_key` = 'abc' and tags.`lathe.kind` = 'trial'"
    assert (state["orderByKey"], state["orderByAsc"]) == (f"metrics.`{VALUE}`", ascending)
    assert state["selectedColumns"] == [
        "params.`optimizer.lr`", "params.`model`", "params.`model.width`", f"metrics.`{VALUE}`",
    ]  # fmt: skip
    assert [section["name"] for section in state["compareRunSections"]] == ["Sweep", "Curves", "Differences"]


def test_view_is_saved_with_the_parent_run(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, [{"optimizer.lr": lr} for lr in (0.1, 0.2)])
    SweepSync(sweep).sync()
    view = saved(runs_dir)
    assert view["tag"] == f"mlflow.sharedViewState.{sweep.key[:12]}"
    assert view["name"] == "sweep probe"
    assert view["state"] == mlflow_view.make_view_state(sweep.spec, sweep.key)
    page = (
        f"#/experiments/1/runs?viewStateShareKey={sweep.key[:12]}&workflowType=machine_learning&compareRunsMode=CHART"
    )
    assert mlflow_view.make_link(sweep, "http://127.0.0.1:5000/") == f"http://127.0.0.1:5000/{page}"
    assert read_run_tags(runs_dir, "probe")["mlflow.note.content"].startswith(
        f"**probe** ([all trials side by side]({page}))"
    )


def test_view_is_updated_only_if_the_spec_has_changed(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    real = mlflow_client.Store.set_experiment_tag

    def noted(store: mlflow_client.Store, experiment_id: str, key: str, value: str) -> None:
        written.append(key)
        real(store, experiment_id, key, value)

    monkeypatch.setattr(mlflow_client.Store, "set_experiment_tag", noted)
    sweep = make_swept(runs_dir, [{"optimizer.lr": 0.1}])
    for _ in range(2):
        SweepSync(sweep).sync()
    run_trial(sweep, ledgers.ids(1)[0], 0.5)
    SweepSync(sweep).sync()
    assert len(written) == 1
    spec = {**sweep.spec, "space": {**sweep.spec["space"], "seed": [0, 1]}}
    (sweep.folder / "sweep.yaml").write_text(json.dumps(spec))
    SweepSync(Sweep(sweep.folder)).sync()
    assert len(written) == 2
    assert "params.`seed`" in saved(runs_dir)["state"]["selectedColumns"]


@pytest.mark.parametrize("version", ["2.22.0", "4.0.0", None, "unknown"])
def test_unknown_ui_version_has_a_plain_link(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    monkeypatch.setattr(mlflow_client.Store, "ui_version", lambda self: version)
    sweep = make_swept(runs_dir, [{"optimizer.lr": 0.1}], mode="min")
    SweepSync(sweep).sync()
    assert sql(runs_dir / "mlflow.db", "select count(*) from experiment_tags where key like 'mlflow.shared%'") == [(0,)]
    link = mlflow_view.make_link(sweep, "http://127.0.0.1:5000")
    assert "viewStateShareKey" not in link
    assert f"searchFilter=tags.%60lathe.sweep_key%60%20%3D%20%27{sweep.key}%27" in link
    assert "orderByKey=metrics.%60delivered%2Fval%2Faccuracy_top1%60&orderByAsc=true" in link


def test_installed_mlflow_has_saved_views(runs_dir: Path) -> None:
    mlflow_client.get_store_errors()
    version = mlflow_client.open_store(f"sqlite:///{runs_dir}/mlflow.db", runs_dir).ui_version()
    assert mlflow_view.has_saved_views(version)


def test_view_that_is_too_large_is_not_saved(runs_dir: Path) -> None:
    large_space = {f"model.{number * 7919**3:x}_{number**5:x}": [1, 2] for number in range(1500)}
    sweep = make_swept(runs_dir, [], space=large_space)
    assert mlflow_view.make_view(sweep) is None


def test_sweep_outside_a_store_has_no_link(runs_dir: Path) -> None:
    sweep = make_swept(runs_dir, [{"optimizer.lr": 0.1}], sync="off")
    with pytest.raises(StoreError, match=r"sweep 'probe' is not in a store, .*run `lathe sync probe` first"):
        mlflow_view.make_link(sweep, "http://127.0.0.1:5000")
    assert mlflow_view.list_newest(runs_dir, f"sqlite:///{runs_dir}/mlflow.db", 5) == []
    name = sweep.folder
    assert mlflow_view.ui_hint(sweep).startswith(
        f"`lathe ui --sweep {name}` compares the trials in MLflow; run `lathe sync"
    )
    (sweep.folder / "sync.json").write_text("[]")
    assert mlflow_view.find_location(sweep) is None
    with pytest.raises(StoreError, match="sweep 'probe' is not in the store sqlite"):
        serve(runs_dir, sweep=sweep)
    SweepSync(sweep).sync()
    assert mlflow_view.ui_hint(sweep) == f"`lathe ui --sweep {name}` compares the trials in MLflow"
    with pytest.raises(StoreError, match=r"is not in the store http://127.0.0.1:1"):
        serve(runs_dir, store="http://127.0.0.1:1", sweep=sweep)


def test_newest_sweeps_are_listed(runs_dir: Path) -> None:
    for number in range(4):
        sweep = make_swept(runs_dir, [{"optimizer.lr": 0.1}], name=f"probe{number}")
        ledgers.age_file(sweep.folder / "sweep.yaml", 100 - number)
        if number != 2:
            SweepSync(sweep).sync()
    sweeps = mlflow_view.list_newest(runs_dir, f"sqlite:///{runs_dir}/mlflow.db", 2)
    assert [sweep.name for sweep in sweeps] == ["probe3", "probe1"]
