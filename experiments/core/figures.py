"""The style of figures, and their output as PNG for print and as SVG for light and dark pages."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from statistics import quantiles
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 10.4
DPI = 160
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"

# Each colour has a unique value, because the SVG is searched for it.
INK, MUTED, GRID, REST, PAPER = "#1c2127", "#5c6670", "#e4e7eb", "#c5cbd3", "#fffffe"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3a424c")
"""Okabe and Ito 2008, https://jfly.uni-koeln.de/color: distinguishable with any colour vision."""
RANKS = ("#bdd3e6", "#94bddb", "#66a3cc", "#2f80b3", "#0a4f7d")
"""Lightness from the worst fifth to the best."""
BEST = "#d55e01"
VARIABLES = {
    INK: "ink", MUTED: "muted", GRID: "grid", REST: "rest", PAPER: "paper", BEST: "best",
    **{colour: f"c{number}" for number, colour in enumerate(SERIES, 1)},
    **{colour: f"q{number}" for number, colour in enumerate(RANKS, 1)},
}  # fmt: skip
DARK = {
    INK: "#e8ebef", MUTED: "#a3adb8", GRID: "#2c333b", REST: "#4d5763", PAPER: "#171b20", BEST: "#ff8f4f",
    **dict(zip(SERIES, ("#4aa8e8", "#ff8f4e", "#33c79b", "#e6a0c8", "#f2bd4a", "#9ad7ff", "#cfd5dc"), strict=True)),
    **dict(zip(RANKS, ("#2b4257", "#355f80", "#4382ae", "#5fabdd", "#a8dcff"), strict=True)),
}  # fmt: skip
WIDE = 100.0
"""Ratio of the highest to the lowest value from which an axis is logarithmic."""
FAR = 6.0
"""Interquartile ranges from the middle half; values farther away do not widen an axis."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 2)), "-", (0, (3, 3)))
STYLE: Any = {
    "font.family": ["DejaVu Sans"], "font.size": 9.0, "text.parse_math": False, "text.color": INK,
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.titlesize": 10.0,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 9.0, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.facecolor": "none",
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.8, "axes.formatter.useoffset": False,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.major.size": 3.0, "ytick.major.size": 0.0, "legend.frameon": False, "legend.fontsize": 8.5,
    "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "svg.fonttype": "none", "svg.hashsalt": "lathe",
}  # fmt: skip


@dataclass(frozen=True)
class RenderedFigure:
    """One figure as SVG and PNG."""

    name: str
    """File name without suffix."""
    title: str
    caption: str
    alt: str
    svg: str
    """Its colours are CSS variables, and it links to rows of the page."""
    png: bytes


@dataclass
class Tooltips:
    """Texts that a page shows when the pointer is over a part of a figure."""

    texts: list[str] = field(default_factory=list)

    def mark(self, artist: Any, text: str, run: str | None = None) -> None:
        """Attach a text to an artist, and a link to the row of a run."""
        artist.set_gid(f"tip-{len(self.texts)}")
        artist.set_in_layout(False)  # else the layout measures each of hundreds of marks
        self.texts.append(text)
        if run is not None:
            artist.set_url(f"#{row_anchor(run)}")


def row_anchor(run: str) -> str:
    """The anchor of a run's row in the page."""
    return f"trial-{re.sub(r'[^A-Za-z0-9_.-]', '_', run)}"


@contextmanager
def new_figure(
    rows: int, columns: int, height_in: float, width_in: float = WIDTH_IN, **layout: Any
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with its panels, row by row, in the style of the report, while the context is open."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A figure of its own, not of pyplot: that keeps all, and asks for a screen.
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # not the `matplotlibrc` of the current folder
        mpl.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **layout)
        yield figure, list(axes.flat)


def scale_axis(axis: Axes, values: Iterable[float]) -> str:
    """Scale the vertical axis to the values: logarithmic for a wide range, and without far outliers.

    Returns:
        A sentence for the caption if values are outside of the picture, else "".
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    known = sorted(value for value in values if math.isfinite(value))
    if len(known) < 4 or known[0] == known[-1]:
        return ""
    if known[0] > 0 and known[-1] > WIDE * known[0]:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        return ""
    first, _, third = quantiles(known, n=4)
    near = [value for value in known if first - FAR * (third - first) <= value <= third + FAR * (third - first)]
    if len(near) < 2 or near[-1] - near[0] > (known[-1] - known[0]) / 2:
        return ""
    margin = 0.08 * (near[-1] - near[0] or abs(near[0]) or 1.0)
    axis.set_ylim(near[0] - margin, near[-1] + margin)
    return "A few outliers are outside of the picture."


def render(figure: Figure, name: str, *, title: str, caption: str, alt: str, tips: Tooltips) -> RenderedFigure:
    """Save a figure as SVG and PNG. Equal figures give equal bytes."""
    image, text = io.BytesIO(), io.StringIO()
    figure.savefig(image, format="png", dpi=DPI, metadata={"Software": None})
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return RenderedFigure(name, title, caption, alt, _themed(text.getvalue(), name, alt, tips), image.getvalue())


def _themed(svg: str, name: str, alt: str, tips: Tooltips) -> str:
    """Prepare an SVG for embedding: colours of the page, searchable text, a description for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(?<=(?:fill|roke): )#[0-9a-f]{6}\b", _variable, svg)
    svg = svg.replace("font-family: 'DejaVu Sans'", f"font-family: {FONT}")
    svg = re.sub(r' id="(?!tip-)([A-Za-z]+[0-9A-Za-z]*_\d+)"', "", svg)  # ids of groups repeat in every figure
    svg = re.sub(r'(id="|url\(#|href="#)(?=[mp][0-9a-f]{10}\b)', rf"\g<1>{name}-", svg)
    svg = svg.replace(' target="_blank">', ">")  # links stay in the page
    for number, tip in enumerate(tips.texts):
        svg = svg.replace(f'<g id="tip-{number}">', f"<g><title>{escape(tip)}</title>", 1)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(alt)}">{rest}'


def _variable(match: re.Match[str]) -> str:
    colour = match.group()
    return f"var(--{VARIABLES[colour]}, {colour})" if colour in VARIABLES else colour


def css_variables(colours: Mapping[str, str] | None = None) -> str:
    """The colours as CSS variables, replaced by ``colours`` where that has one."""
    return " ".join(f"--{name}: {(colours or {}).get(colour, colour)};" for colour, name in VARIABLES.items())


def standalone_svg(svg: str, page: str) -> str:
    """An SVG for a file of its own, light or dark by the reader's setting.

    Args:
        svg: of a `RenderedFigure`.
        page: the page that its links lead to.
    """
    style = f":root {{ {css_variables()} }} @media (prefers-color-scheme: dark) {{ :root {{ {css_variables(DARK)} }} }}"
    head, rest = svg.split(">", 1)
    width, height = re.findall(r'viewBox="0 0 (\S+) (\S+)"', head)[0]
    linked = rest.replace('href="#trial-', f'href="{page}#trial-')
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head} width="{width}pt" height="{height}pt"><style>{style}</style>{linked}'
