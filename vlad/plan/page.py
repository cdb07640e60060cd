"""The page of `vlad plan --html`: the same text, and the Gantt chart."""

from __future__ import annotations

from collections.abc import Sequence

from vlad.html_page import document, grid, table
from vlad.html_page import text as escaped
from vlad.plan.advice import Advice
from vlad.plan.gantt import figure
from vlad.plan.prediction import Outcome
from vlad.plan.text import ADVICE_HEADS, BLOCK_HEADS, advice_rows, block_rows, estimate, facts, together, verdict
from vlad.plan.timeline import Timeline
from vlad.report_plots import STYLE, svg


def page(title: str, outcome: Outcome, advice: Sequence[Advice], timeline: Timeline) -> str:
    """One HTML file that needs no network."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        drawn = svg(figure(timeline))
    parts = [f"<p><b>{escaped(verdict(outcome))}</b></p>"]
    if said := estimate(outcome):
        parts.append(f"<p>{escaped(said)}</p>")
    parts.append(table(facts(outcome, timeline)))
    parts.append("<h2>Who is busy when</h2><p class=about>The first requests from rest, simulated with the daemon's "
                 f"scheduler, gate, queue and servo loop.</p><figure>{drawn}</figure>")  # fmt: skip
    if rows := list(block_rows(outcome)):
        parts.append(f"<h2>Where T_inference goes</h2>{grid(BLOCK_HEADS, rows)}")
    if advice:
        parts.append("<h2>What to change</h2><p class=about>Cheapest first; each alone, on the setup above.</p>"
                     + grid(ADVICE_HEADS, list(advice_rows(advice)))
                     + f"<p>{escaped(together(advice))}</p>")  # fmt: skip
    board = outcome.setup.board
    if board is not None and outcome.full.blocks:
        parts.append(f"<details><summary>Profile of the board: {escaped(board.name)}</summary><p>{escaped(board.about)}"
                     f"</p>{grid(('figure', 'source'), list(board.figures()))}</details>")  # fmt: skip
    return document(title, "\n".join(parts), "Formulas and the keys of a profile: docs/plan.md.")
