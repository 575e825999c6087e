"""MLflow shows the verdict of a reproduction as tags, and as a line of the description with a link."""

from __future__ import annotations

from pathlib import Path

import yaml

from experiments.tracking.run_sync import sync_run
from experiments.trial.trial import Trial
from tests.support.stores import log_steps, make_run, sql, start_attempt, write_outcome


def tags_of(runs_dir: Path, run_id: str | None) -> dict[str, str]:
    return dict(sql(runs_dir / "mlflow.db", f"select key, value from tags where run_uuid = '{run_id}'"))


def test_the_verdict_is_tagged_and_linked_to_the_original(runs_dir: Path) -> None:
    first, second = make_run(runs_dir, "aaaaaa"), make_run(runs_dir, "bbbbbb")
    for trial in (first, second):
        with start_attempt(trial) as journal:
            log_steps(journal, range(1, 4))
        write_outcome(trial)
    original = sync_run(first)
    link = {
        "run": "aaaaaa",
        "run_key": "key-of-aaaaaa",
        "mlflow_run_id": original.run_id,
        "mlflow_experiment_id": original.experiment_id,
    }
    path = second.folder / "provenance.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"reproduces": link}))
    run_id = sync_run(Trial(second.folder)).run_id
    before = tags_of(runs_dir, run_id)
    assert (before["lathe.reproduces"], before["lathe.reproduces_run"]) == ("key-of-aaaaaa", original.run_id)
    assert "lathe.verdict" not in before
    place = f"#/experiments/{original.experiment_id}/runs/{original.run_id}"
    assert f"- reproduces [`aaaaaa`]({place})\n" in before["mlflow.note.content"]
    # The verdict comes when the run is in the store already.
    content = {"verdict": "within tolerance", "summary": "within tolerance: by 1e-07"}
    (second.folder / "verdict.yaml").write_text(yaml.safe_dump(content))
    assert sync_run(Trial(second.folder)).run_id == run_id
    after = tags_of(runs_dir, run_id)
    assert after["lathe.verdict"] == "within tolerance"
    assert f"- reproduces [`aaaaaa`]({place}): within tolerance: by 1e-07\n" in after["mlflow.note.content"]
    assert "lathe.reproduces" not in tags_of(runs_dir, original.run_id)
