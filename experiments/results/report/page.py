"""The page of a report: one file of HTML that asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from experiments.core.figures import Picture, anchor
from experiments.core.format import number, point_text
from experiments.results.report.cost import totals
from experiments.results.report.findings import Findings
from experiments.results.report.style import CSS, SCRIPT
from experiments.results.report.tables import (
    Cell,
    Column,
    Table,
    differences_table,
    facts_table,
    points_table,
    replicas_table,
    trials_table,
)

MOST_TEXT = 240
SHORT = 24
"""Characters of a cell that stay in one line."""
MOST_IDS = 8


def page(
    findings: Findings, pictures: Sequence[Picture], missing: Iterable[tuple[str, str]], again: Sequence[str]
) -> str:
    """The whole page.

    Args:
        findings: what it tells.
        pictures: in their order.
        missing: titles of pictures that there are none of, and why.
        again: commands that have the best run again.
    """
    sections = [_best(findings, again)]
    sections += [_differences(findings)] if findings.kind == "runs" else []
    sections += [_picture(one, findings) for one in pictures]
    sections += [_cost(findings)] if not any(one.name == "cost" for one in pictures) else []
    sections += [_points(findings)] if findings.has_seeds else []
    sections += [_missing(missing), _trials(findings)]
    shown = [section for section in sections if section]
    return "\n".join(["<!doctype html>", '<html lang="en">', _head(findings), "<body>", '<div class="page">', _header(findings),
                      _navigation(shown), _tiles(findings), _remarks(findings), *shown, _footer(findings), "</div>",
                      f"<script>{SCRIPT}</script>", "</body>", "</html>", ""])  # fmt: skip


def _head(findings: Findings) -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # Whatever stands in a value: no other script runs, and nothing is fetched.
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return (
        f'<head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(_cut(findings.name, 80))} · Lathe</title><style>{CSS}</style></head>"
    )


def _header(findings: Findings) -> str:
    note = f'<p class="lead note">{escape(findings.note)}</p>' if findings.note else ""
    return (
        f'<header><p class="kind">{"Sweep" if findings.kind == "sweep" else "Runs"} report</p>'
        f"<h1>{escape(_cut(findings.name, 120))}</h1>{note}"
        f'<p class="lead">{escape(findings.asked)} {escape(findings.standing[:1].upper() + findings.standing[1:])}.'
        f"{_times(findings)}</p></header>"
    )


def _times(findings: Findings) -> str:
    if findings.until is None:
        return ""
    opened, until = _date(findings.opened or findings.until), _date(findings.until)
    if opened[:10] == until[:10]:
        until = until[11:]
    return f" {opened} to {until} UTC." if opened[11:] != until else f" {opened} UTC."


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _navigation(sections: Sequence[str]) -> str:
    links = []
    for section in sections:
        name = section.partition('id="')[2].partition('"')[0]
        title = section.partition("<h2>")[2].partition("</h2>")[0]
        links.append(f'<a href="#{name}">{title}</a>')
    return f'<nav aria-label="Sections">{"".join(links)}</nav>'


def _tiles(findings: Findings) -> str:
    tiles = []
    if (best := findings.best) is not None:
        spread = f" <small>± {best.spread:.2g}, {len(best.finished)} seeds</small>" if best.spread is not None else ""
        tiles.append((f"best {escape(findings.metric)}", f"{number(best.value)}{spread}"))
    tiles.append(
        (
            "points" if findings.has_seeds else "trials" if findings.kind == "sweep" else "runs",
            str(len(findings.points)),
        )
    )
    tiles += [(escape(name), _split(text)) for name, text in totals(findings).items()]
    return f'<dl class="tiles">{"".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in tiles)}</dl>'


def _split(text: str) -> str:
    """A number large, what follows it small."""
    first, _, rest = text.partition(" ")
    return f"{escape(first)} <small>{escape(rest)}</small>" if rest else escape(first)


def _remarks(findings: Findings) -> str:
    lines = "".join(f"<li>{escape(_cut(text, 600))}</li>" for text in findings.remarks)
    return f'<ul class="remarks">{lines}</ul>' if lines else ""


def _best(findings: Findings, again: Sequence[str]) -> str:
    best, run = findings.best, findings.best_run
    what = "point" if findings.has_seeds else "trial" if findings.kind == "sweep" else "run"
    if best is None or run is None:
        return _section("best", f"Best {what}", '<p class="caption">None has come to its end with a result yet.</p>')
    mean = f", the mean of {len(best.finished)} seeds" if len(best.finished) > 1 else ""
    at = f'<p class="point">{escape(_cut(point_text(best.values), 600))}</p>' if best.values else ""
    one = f" The best of them is {_links([run.id])} with {number(run.value)}." if len(best.finished) > 1 else ""
    body = (
        f"{at}<p>{escape(findings.metric)} <strong>{number(best.value)}</strong>{mean}, of "
        f"{_links([found.id for found in best.finished])}.{one} To have it again, from the folder of the runs:</p>"
        f"<pre><code>{escape(chr(10).join(again))}</code></pre>"
    )
    return _section("best", f"Best {what}", body, "best")


def _differences(findings: Findings) -> str:
    table = differences_table(findings)
    if not findings.short and len(table.rows) == 0:
        told = (
            "Nothing but names, places and what a machine is called."
            if len(findings.runs) > 1
            else "There is only one run."
        )
        return _section("differences", "What differs", f'<p class="caption">{told}</p>')
    told = "The keys of the configurations that are not the same in all runs, but for names and places."
    return _section("differences", "What differs", f'<p class="caption">{told}</p>{_table(table)}')


def _picture(picture: Picture, findings: Findings) -> str:
    files = f"figures/{picture.name}"
    body = (
        f'<p class="caption">{escape(picture.caption)}</p><figure>{picture.svg}'
        f'<figcaption><a href="{files}.png">PNG</a> · <a href="{files}.svg">SVG</a></figcaption></figure>'
    )
    if picture.name == "cost":
        body += _facts(findings)
    if picture.name == "replicas":
        body += _table(replicas_table(findings))
    return _section(picture.name, escape(picture.title), body)


def _missing(missing: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"<li>{title}: {escape(why)}</li>" for title, why in missing)
    return _section("not-drawn", "Not drawn", f'<ul class="caption">{lines}</ul>') if lines else ""


def _cost(findings: Findings) -> str:
    told = ", ".join(f"{name} {text}" for name, text in totals(findings).items())
    return _section("cost", "Cost", f'<p class="caption">{escape(told[:1].upper() + told[1:])}.</p>{_facts(findings)}')


def _facts(findings: Findings) -> str:
    table = facts_table(findings)
    if not table.rows:
        return ""
    told = "Of cost/ the value at the end of a run, of all else its median over the run."
    return f'<h3>Throughput and load</h3><p class="caption">{told}</p>{_table(table)}'


def _points(findings: Findings) -> str:
    told = "Means over the finished seeds, ± their standard deviation. The same as Markdown: "
    return _section(
        "points", "All points",
        f'<p class="caption">{told}<a href="table.md">table.md</a>.</p>{_table(points_table(findings), is_sortable=True)}',
    )  # fmt: skip


def _trials(findings: Findings) -> str:
    what = "trials" if findings.kind == "sweep" else "runs"
    how = "largest" if findings.mode == "max" else "smallest"
    told = f"{findings.metric} is the {how} value of a run, every other metric its last. A click on a column's name sorts by it."
    if not findings.has_seeds:
        told += " The points as Markdown: table.md."
    table = _table(trials_table(findings), is_sortable=True)
    return _section(what, f"All {what}", f'<p class="caption">{escape(told)}</p>{table}')


def _table(table: Table, *, is_sortable: bool = False) -> str:
    head = "".join(
        f'<th scope="col"{" class=number" if column.is_number else ""} title="{escape(column.name)}">'
        f"{_breakable(_cut(column.name, 48))}</th>"
        for column in table.columns
    )
    lines = []
    for index, row in enumerate(table.rows):
        mark = f' id="{anchor(table.ids[index])}"' if table.ids else ""
        cells = "".join(_cell(cell, column) for cell, column in zip(row, table.columns, strict=True))
        lines.append(f"<tr{mark}>{cells}</tr>")
    kind = "sortable" if is_sortable else "plain"
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _breakable(text: str) -> str:
    """A name that may be broken between its words."""
    return re.sub(r"([/_.])(?=\w)", r"\1<wbr>", escape(text))


def _cell(cell: Cell, column: Column) -> str:
    kind = (
        "number" if column.is_number else "id" if cell.runs else f"state {cell.text}" if column.name == "state" else ""
    )
    sort = ""
    if isinstance(cell.sort, (int, float)):
        sort = f' data-sort="{"" if math.isnan(cell.sort) else repr(cell.sort)}"'.replace("inf", "Infinity")
    text = _links(cell.runs) if cell.runs else escape(_cut(cell.text, MOST_TEXT))
    text = f"<strong>{text}</strong>" if cell.is_best and cell.text and not cell.runs else text
    if len(cell.text) > SHORT and not cell.runs:
        text = f"<div>{text}</div>"
    title = f' title="{escape(cell.text)}"' if len(cell.text) > MOST_TEXT else ""
    return f"<td{f' class={chr(34)}{escape(kind)}{chr(34)}' if kind else ''}{sort}{title}>{text}</td>"


def _links(runs: Sequence[str]) -> str:
    more = f" and {len(runs) - MOST_IDS} more" if len(runs) > MOST_IDS else ""
    return ", ".join(f'<a href="#{anchor(run)}"><code>{escape(run)}</code></a>' for run in runs[:MOST_IDS]) + more


def _section(name: str, title: str, body: str, kind: str = "") -> str:
    return f'<section id="{name}"{f" class={kind}" if kind else ""}><h2>{title}</h2>{body}</section>'


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _footer(findings: Findings) -> str:
    source = (
        "the ledger of the sweep and the journals of its trials"
        if findings.kind == "sweep"
        else "the journals of the runs"
    )
    told = f"Made by <code>lathe report</code> from {source}. Marks and curves in the figures lead to their trial."
    return f"<footer>{told}</footer>"
