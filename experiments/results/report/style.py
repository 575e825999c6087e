"""The style sheet and the script of a report's page; it needs neither a network nor, to be read, the script."""

from __future__ import annotations

from experiments.core.figures import DARK, FONT, variables

CSS = f"""
:root {{ color-scheme: light dark; {variables()}
  --back: #f4f5f7; --line: #dfe3e8; --accent: #0060a0; --soft: #eef3f8; --code: #f1f3f5; --warn: #8a4b00;
    --warn-back: #fff6e8; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)}
  --back: #0f1215; --line: #2a3138; --accent: #7cc0f2; --soft: #1d2731; --code: #20262d; --warn: #f2bd4a;
    --warn-back: #2a2314; }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; scroll-padding-top: 4rem; }}
@media (prefers-reduced-motion: no-preference) {{ html {{ scroll-behavior: smooth; }} }}
body {{ margin: 0; background: var(--back); color: var(--ink); font: 15px/1.55 {FONT}; }}
.page {{ max-width: 1120px; margin: 0 auto; padding: 2.2rem 1.5rem 4rem; }}
a {{ color: var(--accent); text-decoration: none; }}
a:hover {{ text-decoration: underline; }}
a:focus-visible, button:focus-visible, .scroll:focus-visible {{ outline: 2px solid var(--accent);
  outline-offset: 2px; }}
.kind {{ margin: 0; font-size: .78rem; font-weight: 600; letter-spacing: .09em; text-transform: uppercase;
  color: var(--muted); }}
h1 {{ margin: .1rem 0 .35rem; font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em; overflow-wrap: anywhere; }}
h2 {{ margin: 0 0 .15rem; font-size: 1.18rem; letter-spacing: -.01em; }}
h3 {{ margin: 1.6rem 0 .4rem; font-size: .98rem; }}
.lead {{ margin: 0; max-width: 62rem; color: var(--muted); overflow-wrap: anywhere; }}
.lead.note {{ color: var(--ink); }}
nav {{ margin: 1.4rem 0 0; border-bottom: 1px solid var(--line); display: flex; flex-wrap: wrap; gap: .2rem 1.4rem;
  padding-bottom: .6rem;
  font-size: .9rem; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 1px; margin: 1.4rem 0 0; overflow: hidden;
  background: var(--line); border: 1px solid var(--line); border-radius: 10px; }}
.tiles div {{ flex: 1 1 132px; background: var(--paper); padding: .85rem 1.1rem; }}
.tiles div:first-child {{ flex: 2 1 240px; }}
.tiles dt {{ font-size: .8rem; color: var(--muted); overflow-wrap: anywhere; }}
.tiles dd {{ margin: .1rem 0 0; font-size: 1.32rem; font-weight: 650; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }}
.tiles dd {{ line-height: 1.3; }}
.tiles dd small {{ font-size: .82rem; font-weight: 400; color: var(--muted); letter-spacing: 0; }}
section {{ margin-top: 1.4rem; padding: 1.3rem 1.5rem 1.4rem; background: var(--paper);
  border: 1px solid var(--line); border-radius: 10px; }}
.caption {{ margin: 0 0 .8rem; color: var(--muted); font-size: .88rem; max-width: 54rem; overflow-wrap: anywhere; }}
section > .caption:last-child {{ margin-bottom: 0; }}
ul.caption {{ padding-left: 1.1rem; }}
.remarks {{ margin: 1.4rem 0 0; padding: .7rem 1.1rem .7rem 2.1rem; background: var(--warn-back);
  border-left: 3px solid var(--warn);
  border-radius: 0 8px 8px 0; font-size: .92rem; overflow-wrap: anywhere; }}
figure {{ margin: 0; overflow-x: auto; }}
figure svg {{ display: block; width: 100%; min-width: 640px; height: auto; }}
figure svg a:hover {{ filter: brightness(1.25); }}
figcaption {{ margin-top: .3rem; font-size: .8rem; color: var(--muted); }}
.best p {{ margin: .3rem 0 .5rem; overflow-wrap: anywhere; }}
.best .point {{ font-family: ui-monospace, 'SF Mono', Menlo, Consolas, monospace; font-size: .95rem;
  font-weight: 600; }}
pre {{ margin: .5rem 0 0; padding: .7rem 1rem; background: var(--code); border-radius: 8px; overflow-x: auto;
  font-size: .88rem;
  line-height: 1.5; }}
code, pre {{ font-family: ui-monospace, 'SF Mono', Menlo, Consolas, monospace; }}
.scroll {{ overflow-x: auto; margin: .7rem -1.5rem 0; padding: 0 1.5rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; font-weight: 600; color: var(--muted); border-bottom: 1.5px solid var(--line);
  padding: .35rem .7rem .4rem 0;
  vertical-align: bottom; line-height: 1.3; }}
td {{ padding: .32rem .7rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }}
td div {{ width: max-content; max-width: 17rem; white-space: normal; overflow-wrap: anywhere; }}
th:not(:first-child), td:not(:first-child) {{ padding-left: .2rem; }}
th.number, td.number {{ text-align: right; white-space: nowrap; }}
tbody tr:last-child td {{ border-bottom: 0; }}
tbody tr:hover td {{ background: var(--soft); }}
tr:target td {{ background: var(--soft); box-shadow: inset 0 1px var(--best), inset 0 -1px var(--best); }}
td strong {{ color: var(--best); }}
code {{ font-size: .93em; }}
td.state::before {{ content: ""; display: inline-block; width: .55em; height: .55em; margin-right: .45em;
  border-radius: 50%;
  background: var(--rest); }}
td.state.finished::before {{ background: var(--c3); }}
td.state.running::before {{ background: var(--c6); }}
td.state.failed::before, td.state.killed::before {{ background: var(--c2); border-radius: 0;
  transform: rotate(45deg); }}
td.state.pruned::before {{ background: none; border: 1.5px solid var(--c1); }}
th button {{ all: unset; cursor: pointer; color: inherit; }}
th button:hover {{ color: var(--ink); }}
th[aria-sort=ascending] button::after {{ content: " ↑"; }}
th[aria-sort=descending] button::after {{ content: " ↓"; }}
footer {{ margin-top: 1.6rem; font-size: .82rem; color: var(--muted); }}
@media (max-width: 640px) {{ .page {{ padding: 1.2rem .9rem 3rem; }} section {{ padding: 1rem; }}
  .scroll {{ margin: .7rem -1rem 0; padding: 0 1rem; }} }}
@media print {{
  @page {{ margin: 14mm; }}
  :root {{ color-scheme: light; font-size: 12px; }}
  body {{ background: none; font-size: 9.5pt; }}
  .page {{ max-width: none; padding: 0; }}
  nav {{ display: none; }}
  section {{ border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: .9rem 0; margin-top: .6rem; }}
  .best, figure, tr, .tiles {{ break-inside: avoid; }}
  h2, .caption {{ break-after: avoid; }}
  thead {{ display: table-header-group; }}
  figure svg {{ min-width: 0; }}
  .scroll {{ overflow: visible; margin: .5rem 0 0; padding: 0; }}
  table {{ font-size: 7pt; }}
  th, td {{ padding: .2rem .5rem .2rem 0; }}
  th, td:not(.state):not(.number) {{ white-space: normal; }}
  a {{ color: inherit; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""

SCRIPT = """
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  table.querySelectorAll('thead th').forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent;
      const rows = [...body.rows].sort((one, other) => {
        const a = key(one), b = key(other);
        if (a === '' || b === '') return (a === '') - (b === '');
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return down ? -order : order;
      });
      for (const other of table.querySelectorAll('thead th')) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      body.append(...rows);
    });
  });
}
"""
