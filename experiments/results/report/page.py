"""Renders a report as one HTML file that needs no network: `report.html.jinja` with `report.css` and `report.js` in it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.core.figures import DARK, FONT, RenderedFigure, css_variables, row_anchor
from experiments.core.format import format_number, format_point
from experiments.results.report import tables
from experiments.results.report.axis_scale import shorten
from experiments.results.report.cost import summarize_cost
from experiments.results.report.findings import Findings, describe_rivals

FOLDER = Path(__file__).parent
MAX_TEXT, MAX_LINE = 240, 24
"""Characters of a cell that are shown, and that stay on one line."""
MAX_IDS = 8


def render_page(
    findings: Findings, pictures: Sequence[RenderedFigure], missing: Sequence[tuple[str, str]], commands: Sequence[str]
) -> str:
    """Render the whole page.

    Args:
        findings: what the page reports.
        pictures: the figures, in their order.
        missing: titles of figures that could not be drawn, and why.
        commands: commands that reproduce the best run.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"anchor": row_anchor, "cut": shorten, "number": format_number, "segments": _split_name}
    script = (FOLDER / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.jinja").render(
        findings=findings, sections=_list_sections(findings, pictures, missing), period=_format_period(findings),
        totals=summarize_cost(findings), pictures={picture.name: picture for picture in pictures}, missing=missing,
        commands=commands, tables=tables, style=_make_style(), script=script, script_digest=digest, point_text=format_point,
        describe_rivals=describe_rivals,
        most_ids=MAX_IDS, most_text=MAX_TEXT, most_line=MAX_LINE,
    )  # fmt: skip


def _list_sections(
    findings: Findings, pictures: Sequence[RenderedFigure], missing: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """List the sections in the order of the page: title by id."""
    sections = {"best": f"Best {findings.point_noun}"}
    if findings.kind == "runs":
        sections["differences"] = "What differs"
    sections |= {picture.name: picture.title for picture in pictures}
    sections.setdefault("cost", "Cost")
    if findings.has_seeds:
        sections["points"] = "All points"
    if missing:
        sections["not-drawn"] = "Not drawn"
    return sections | {f"{findings.noun}s": f"All {findings.noun}s"}


def _make_style() -> str:
    """Return the style sheet, with the colours of the figures as variables."""
    light, dark = f":root {{ --font: {FONT}; {css_variables()} }}", f":root {{ {css_variables(DARK)} }}"
    rules = (FOLDER / "report.css").read_text(encoding="utf-8")
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}\n{rules}"


def _format_period(findings: Findings) -> str:
    """Format when the runs ran, such as ``2026-11-23 10:00 to 12:00 UTC``; empty before the first run starts."""
    if findings.until is None:
        return ""
    opened, until = (
        f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}"
        for time in (findings.opened or findings.until, findings.until)
    )
    if opened == until:
        return f"{opened} UTC."
    return f"{opened} to {until[11:] if opened[:10] == until[:10] else until} UTC."


def _split_name(text: str) -> list[str]:
    """Split a name such as ``val/loss_nats`` where a line may break."""
    return re.split(r"(?<=[/_.])(?=\w)", text)
