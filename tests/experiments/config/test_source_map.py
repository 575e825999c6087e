from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config.source_map import find_misread_keys


@pytest.mark.parametrize(
    "key", ["on", "off", "yes", "No", "TRUE", "false", "~", "null", "010", "-07", "12:30:45", "1:30.5"]
)
def test_a_key_that_yaml_misreads_is_reported_with_its_line(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(f"tags:\n  a: b\n  {key}: c\n  '{key}': quoted\n", encoding="utf-8")
    (message,) = find_misread_keys(tmp_path / "x.yaml")
    assert message.startswith(f"tags.{key} (x.yaml:3): YAML reads the key {key} as ")
    assert message.endswith(f"; quote it: '{key}'")


@pytest.mark.parametrize("key", ["y", "n", "one", "7", "1.5", "1e3", "2024-01-01", "0x1F", "nulls", "'on'", '"~"'])
def test_other_keys_are_read_as_they_look(key: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"tags:\n  {key}: c\n", encoding="utf-8")
    assert find_misread_keys(tmp_path / "x.yaml") == []
