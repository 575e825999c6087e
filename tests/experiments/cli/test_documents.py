"""The JSON documents have the keys that docs/programs.md describes."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.core.files.packages import PROJECT_ROOT
from experiments.results.manage.facts import RunFacts
from tests.support.stores import make_run, start_attempt


def described(section: str) -> list[str]:
    """The keys in the table of a section of the page."""
    page = (PROJECT_ROOT / "docs" / "programs.md").read_text()
    text = page.partition(f"### {section}\n")[2].partition("###")[0]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return sorted(key for row in rows for key in re.findall(r"`(\w+)`", row))


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command in this process and returns its document."""

    def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([*words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_the_page_describes_every_key_of_a_plan_a_run_and_a_list(read: Any, tmp_path: Path) -> None:
    assert sorted(read("plan", "model=softmax", "hardware.peak_tflops=1")) == described("A plan")
    assert sorted(field.name for field in fields(RunFacts)) == described("A run")
    with start_attempt(make_run(tmp_path)):
        pass
    assert sorted(read("ls", "--columns", "name", "--runs-dir", str(tmp_path))[0]) == described("A list of runs")


def test_options_and_keys_are_documents(read: Any) -> None:
    assert "mlp" in read("options")["groups"]["model"]
    assert read("options", "model")["options"]["mlp"].startswith("Multi-layer perceptron")
    assert read("options", "model=mlp")["values"]["hidden_sizes"] == [64, 64]
    (key,) = read("options", "max_steps")["keys"]
    assert (key["key"], key["type"], key["values"]) == ("max_steps", "a whole number or null", {"default": 300})


def test_wrong_input_is_a_document_too(read: Any) -> None:
    found = read("plan", "model=mlp", "optimizer.lrr=1", "max_stesp=3", code=2)
    assert (found["error"], len(found["problems"])) == ("ConfigError", 2)
    assert read("run", "-m", "seed=1,2", code=2)["problems"][0].startswith(
        "--json prints one run, but -m starts a sweep"
    )
