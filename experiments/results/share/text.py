"""A shared file as people read it: what to type first, the configuration line by line, long lists side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

WIDTH = 110
APART = ("configuration", "trial_id", "environment", "data", "expected", "bundle")
"""Keys before which a line is left empty."""
HEADER = """# A run of Lathe, shared by `lathe share`: what was trained, on what, and what came of it.
#   lathe run --from {name}     trains it on this machine; where it runs is yours to add: hardware=... parallel=...
#   lathe reproduce {name}      ... and compares the result with what is expected below
"""


class _Flow(dict[str, Any]):
    """A map that stands side by side."""


class _SharedRow(list[Any]):
    """A list that stands side by side."""


class _Dumper(yaml.CSafeDumper):
    """Writes everything out: a part that occurs twice is no alias, and text of several lines keeps them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(_Flow, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, True))
_Dumper.add_representer(_SharedRow, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True))
_Dumper.add_representer(str, _text)


def as_text(values: Mapping[str, Any]) -> str:
    """The whole file, of the keys of `shared_schema.File` in their order."""
    name = values["how_to_run"][0].removeprefix("lathe run --from ")
    arranged = {
        **values,
        "configuration": _rows(values["configuration"]),
        "environment": {**values["environment"], "packages": _Flow(values["environment"]["packages"])},
        "data": {**values["data"], "splits": {key: _Flow(split) for key, split in values["data"]["splits"].items()}},
        "expected": {"metrics": {key: _points(part) for key, part in values["expected"]["metrics"].items()}},
    }
    parts = [("\n" if key in APART else "") + _yaml({key: value}) for key, value in arranged.items()]
    return HEADER.format(name=name) + _outcome(values) + "\n" + "".join(parts)


def _rows(node: Any) -> Any:
    """A configuration with its plain lists side by side."""
    if isinstance(node, dict):
        return {key: _rows(inner) for key, inner in node.items()}
    if isinstance(node, list) and not any(isinstance(inner, (dict, list)) for inner in node):
        return _SharedRow(node)
    return [_rows(inner) for inner in node] if isinstance(node, list) else node


def _points(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"steps": _SharedRow(part["steps"]), "values": _SharedRow(part["values"])}


def _outcome(values: Mapping[str, Any]) -> str:
    """A line of what it came to."""
    last = {
        name: (part["steps"][-1], part["values"][-1])
        for name, part in values["expected"]["metrics"].items()
        if part["steps"] and name.startswith(("val/", "test/"))
    }
    if not last:
        return ""
    told = ", ".join(f"{name} {value:.4g}" for name, (_, value) in sorted(last.items()))
    return f"# It came to {told} at step {max(step for step, _ in last.values())}.\n"


def _yaml(values: Mapping[str, Any]) -> str:
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return text
