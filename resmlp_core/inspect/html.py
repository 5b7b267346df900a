"""A page of HTML that needs no other file: facts, pictures and a table."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from resmlp_core.common.files import replacing

STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 1rem/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto 4rem; padding: 0 1rem; }
h1 { font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1.5rem; }
dt { opacity: 0.7; }
dd { margin: 0; overflow-wrap: anywhere; }
img { display: block; box-sizing: border-box; max-width: 100%; background: #fff; padding: 0.75rem;
  border: 1px solid var(--line); border-radius: 0.5rem; }
.wide { overflow-x: auto; }
@media (max-width: 44rem) { .wide img { min-width: 40rem; max-width: none; } }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 1rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        text: how to read what follows.
        picture: a PNG.
        table: rows of cells, the first being the headings.
        html: more, put in as it is.
    """

    title: str
    text: str
    picture: Path | None = None
    table: Sequence[Sequence[str]] = ()
    html: str = ""


def write_page(output: Path, title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Write the page, completely or not at all, with the pictures inside.

    Args:
        output: the file to write.
        title: of the page.
        facts: shown at its top.
        sections: in order.
    """
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>\n" for name, fact in facts.items())
    html = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<dl>
{listed}</dl>
{"".join(map(render, sections))}</body>
</html>
"""
    with replacing(output) as partial:
        partial.write_text(html, encoding="utf-8", errors="backslashreplace")


def render(section: Section) -> str:
    """Return a section's HTML."""
    html = f"<section>\n<h2>{escape(section.title)}</h2>\n<p>{escape(section.text)}</p>\n"
    if section.picture:
        data = base64.b64encode(section.picture.read_bytes()).decode()
        html += f'<div class="wide"><img alt="{escape(section.title)}" src="data:image/png;base64,{data}"></div>\n'
    if section.table:
        head, *rows = (list(map(escape, row)) for row in section.table)
        html += f'<div class="wide"><table>\n<thead><tr><th>{"<th>".join(head)}</thead>\n<tbody>\n'
        html += "".join(f"<tr><td>{'<td>'.join(row)}\n" for row in rows) + "</tbody>\n</table></div>\n"
    return html + section.html + "</section>\n"
