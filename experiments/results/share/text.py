"""The text of a shared file, laid out for people who read it before they run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from experiments.run.metrics import DELIVERED, DELIVERED_STEP

BEFORE_BLANK = ("configuration", "trial_id", "environment", "data", "expected", "bundle")
"""Keys with an empty line above."""
HEADER = """# A run of Lathe, written by `lathe share`: what was trained, on which data, and with which result.
#   lathe run --from {name}     trains it on your machine; choose where with hardware=... parallel=...
#   lathe reproduce {name}      trains it and compares the result with `expected` below
"""


class _Flow(dict[str, Any]):
    """A map that is written in flow style, many entries to a line."""


class _Dumper(yaml.CSafeDumper):
    """Writes no aliases, keeps the lines of a long text, and writes lists of numbers in flow style."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, all(isinstance(item, (int, float)) for item in sequence))

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(_Flow, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, True))
_Dumper.add_representer(str, _Dumper.represent_text)


def as_text(values: Mapping[str, Any]) -> str:
    """The whole file.

    Args:
        values: the keys of `SharedFileSchema` in their order.
    """
    packages = _Flow(values["environment"]["packages"])
    values = {**values, "environment": {**values["environment"], "packages": packages}}
    text = HEADER.format(name=values["how_to_run"][0].removeprefix("lathe run --from ")) + _result(values)
    for key, value in values.items():
        section = yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
        text += ("\n" if key in BEFORE_BLANK else "") + section
    return text


def _result(values: Mapping[str, Any]) -> str:
    """A line with the values of the delivered weights, or of the last evaluation if none is known, and an empty line."""
    metrics = {name: part for name, part in values["expected"]["metrics"].items() if part["steps"]}
    delivered = metrics.pop(DELIVERED_STEP, None)
    shown = ("test/", DELIVERED) if delivered else ("test/", "val/")
    names = sorted(metrics, key=lambda name: (not name.startswith("test/"), name))
    points = {name: metrics[name] for name in names if name.startswith(shown)}
    if not points:
        return "\n"
    last = ", ".join(f"{name} {part['values'][-1]:.4g}" for name, part in points.items())
    step = delivered["values"][-1] if delivered else max(part["steps"][-1] for part in points.values())
    return f"# Result at step {step:.0f}: {last}.\n\n"
