"""Names and values of others cannot control the terminal."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.markup import escape
from rich.table import Table

from experiments.cli.main import main
from experiments.core.console import Display, make_console
from experiments.core.safe_output import escape_controls, safe_output

EVIL = {
    "clear": "\x1b[2J", "title": "\x1b]0;owned\x07", "link": "\x1b]8;;http://x\x1b\\", "c1": "\x9b2J", "delete": "\x7f",
    "backspace": "a\bb", "right_to_left": "\u202egnp.exe", "isolate": "\u2067x\u2069", "mark": "\u200fx", "line": "a\u2028b",
    "byte": "\udcff", "overwrite": "all is well\rInputError", "markup": "a[/b]",
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def assert_safe(text: str) -> None:
    assert not {*text} & {*"\x07\x08\r\x7f\x9b\u202e\u2067\u2069\u200f\u2028\udcff"}
    assert "\x1b[2J" not in text
    assert "\x1b]" not in text


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_output_of_every_kind_is_escaped(evil: str, stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = stream(), stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    table = Table(title=escape(evil))
    table.add_column(escape(evil))
    table.add_row(escape(evil))
    with safe_output():
        print(evil)
        sys.stdout.writelines([evil, "\n"])
        print(evil, file=sys.stderr)
        make_console().print(table)
        make_console().print(Table("a[/b]", title="a[/b]"))
        display = Display(sys.stdout)
        with display.training(evil, 3):
            display.started(1)
            display.metrics(2, {f"val/{evil}": 1.0}, {f"train/{evil}": 1.0, f"val/{evil}": 1.0})
            display.say(evil)
        with display.waiting(evil):
            pass
    assert_safe(err.getvalue())
    # What a terminal needs for a progress bar stays: colours, cursor movements and the start of the line.
    shown = out.getvalue()
    assert_safe(
        shown.replace("\r", "") if stream is Terminal and evil != EVIL["overwrite"] else shown.replace("\r\x1b", "")
    )
    assert sys.stdout is out


def test_the_command_line_escapes_its_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model=\x1b[2Jx"]) == 2
    assert main(["\x1b[2J"]) == 2
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed
    assert r"\u001b[2J" in printed


def test_ordinary_text_stays() -> None:
    text = "naïve 日本 \U0001f468\u200d\U0001f469 עברית\n\tx"
    assert escape_controls(text) == text
    assert json.loads(escape_controls('"a\u202eb"')) == "a\u202eb"
