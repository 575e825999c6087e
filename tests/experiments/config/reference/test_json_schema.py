"""JSON Schema of the YAML files, tried with a validator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from experiments.cli.main import main
from experiments.config.options import CONF_DIR, groups
from experiments.config.reference.json_schema import group_schemas
from experiments.sweep.sweep_files import BUILT_IN

SCHEMAS = group_schemas(groups())
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_shipped_file_is_valid(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    folder = BUILT_IN if name == "sweep" else CONF_DIR / name
    paths = [CONF_DIR / "config.yaml"] if name == "config" else sorted(folder.glob("**/*.yaml"))
    assert paths
    for path in paths:
        VALIDATORS[name].validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("name", "option", "change"),
    [
        ("model", "mlp", {"hidden_sizs": [64]}),
        ("model", "mlp", {"hidden_sizes": 64}),
        ("model", "mlp", {"hidden_sizes": ["wide"]}),
        ("optimizer", "adamw", {"lr": "fast"}),
        ("optimizer", "adamw", {"momentum": 0.9}),
        ("data", "csv", {"kind": "ranking"}),
        ("hardware", "local", {"device": "tpu"}),
        ("hardware", "local", {"gpus": 8}),
        ("hardware", "cpu_partition", {"slurm": {"partitoin": "cpu"}}),
        ("callback", "ema", {"ema": {"_target_": "modules.callback.ema.Ema", "decai": 0.9}}),
        ("tracking", "sqlite", {"sync": 3}),
        ("sweep", "tpe_lenet", {"strategy": "tpee"}),
        ("sweep", "tpe_lenet", {"budget": {"max_pionts": 3}}),
        ("experiment", "shakespeare_char", {"max_stpes": 10}),
        ("experiment", "shakespeare_char", {"max_steps": 1.5}),
        ("experiment", "shakespeare_char", {"model": {"num_layers": "four"}}),
        ("experiment", "shakespeare_char", {"checkpoint": {"best_mode": "highest"}}),
    ],
)
def test_a_mistake_is_found(name: str, option: str, change: dict[str, Any]) -> None:
    folder = BUILT_IN if name == "sweep" else CONF_DIR / name
    content = yaml.safe_load((folder / f"{option}.yaml").read_text())
    assert VALIDATORS[name].is_valid(content)
    assert not VALIDATORS[name].is_valid({**content, **change})


def test_a_key_has_its_meaning_and_its_default() -> None:
    key = SCHEMAS["config"]["properties"]["max_steps"]
    assert key["default"] == 300
    assert key["description"].startswith("Length of the training in updates")
    assert SCHEMAS["experiment"]["properties"]["optimizer"]["properties"]["lr"]["description"].startswith(
        "learning rate"
    )


def test_a_folder_of_a_user_gets_schemas_of_its_own_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: own_schema.Net\nwidth: 3\n")
    (tmp_path / "own_schema.py").write_text("class Net:\n    def __init__(self, width: int): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["schema", str(tmp_path / "out"), "--config-dir", str(tmp_path / "conf")]) == 0
    assert f"# yaml-language-server: $schema={tmp_path / 'out' / 'model.json'}" in capsys.readouterr().out
    validator = Draft202012Validator(yaml.safe_load((tmp_path / "out" / "model.json").read_text()))
    assert validator.is_valid({"_target_": "own_schema.Net", "width": "${data.num_features}"})
    assert not validator.is_valid({"_target_": "own_schema.Net", "width": "wide"})
    (tmp_path / "file").touch()
    assert main(["schema", str(tmp_path / "file" / "below")]) == 2
    assert "the schemas cannot be written (Not a directory); name another folder" in capsys.readouterr().err
