"""A page of vlad's as one HTML file that needs no network: what is put into it is escaped, and the page
forbids scripts and requests to itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import vlad

MAX_CELL = 300

STYLE = """
:root { color-scheme: light dark; --ink: #22303c; --paper: #ffffff; --grid: #d9dfe4; --soft: #f4f6f8;
  --blue: #2b6ca3; --green: #1b7f5c; --violet: #7a4fbf; --red: #c0392b }
@media (prefers-color-scheme: dark) { :root { --ink: #d7dee4; --paper: #14191d; --grid: #3a444c; --soft: #1e252b;
  --blue: #6cb2e8; --green: #4dbb91; --violet: #b294ec; --red: #f0776a } }
@media print { :root { --ink: #000; --paper: #fff; --grid: #ccc; --soft: #fff } details { display: block }
  figure, tr { break-inside: avoid } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1100px;
  margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2.2em; border-bottom: 1px solid var(--grid) }
h3 { font-size: 1em; margin: 1.6em 0 0 } p.about { margin: 0.1em 0 0.3em; opacity: 0.75 }
figure { margin: 0 } svg { width: 100%; height: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: 0.2em 0.8em 0.2em 0; border-bottom: 1px solid var(--grid);
  overflow-wrap: anywhere }
th { font-weight: 600; overflow-wrap: normal } th[scope=row] { width: 13em; font-weight: 400; opacity: 0.75 }
td:first-child, .faults td:nth-child(2), .faults td:nth-child(4), .events td:nth-child(2) { white-space: nowrap }
.events { font-size: 0.85em }
.strip { display: flex; flex-wrap: wrap; gap: 0.4em } .strip figure { width: 160px } .strip img { width: 100% }
.strip figcaption { font-size: 0.8em }
pre { background: var(--soft); padding: 0.8em; overflow-x: auto; white-space: pre-wrap; font-size: 0.85em }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, body: str, foot: str) -> str:
    """body: HTML. title, foot: plain text; foot follows the version of vlad."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{text(title)}</h1>\n"
        f"{body}\n<p class=about>Written by vlad {text(vlad.__version__)}. {text(foot)}</p>\n</body>\n</html>\n"
    )


def text(value: object, most: int = MAX_CELL) -> str:
    """Escaped, without control characters, at most so long."""
    plain = str(value)
    plain = plain if len(plain) <= most else plain[: most - 1] + "…"
    return escape("".join(c if c.isprintable() or c == "\n" else "�" for c in plain))


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns, the first names the second."""
    return "<table>" + "".join(
        f"<tr><th scope=row>{text(a)}</th><td>{text(b, 2000)}</td></tr>" for a, b in rows) + "</table>"  # fmt: skip


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]], of: str = "") -> str:
    """Columns under heads. of: attributes of the table, as HTML."""
    head = "".join(f"<th>{text(h)}</th>" for h in heads)
    cells = ("<tr>" + "".join(f"<td>{text(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table{of}><tr>{head}</tr>{''.join(cells)}</table>"
