"""The page of `vlad eval --html`: figures, what happened at which start, and films of failures."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from vlad.evaluation.results import HELD_OUT, Episode, Group, Result, heads, rows, said
from vlad.evaluation.simulated_time import Attempt
from vlad.html_page import document, grid, table, text
from vlad.sim.start import CLUSTERS
from vlad.sim.start import HELD_OUT as HELD_OUT_CLUSTER

MAX_ROWS = 1000


def page(result: Result, attempts: Sequence[Attempt]) -> str:
    """attempts: those of the result's episodes; their films."""
    films = [attempt for attempt in attempts if attempt.film]
    return document(f"vlad eval: {result.policy['name']}", "\n".join(_parts(result, films)),
                    "Success is judged from the state of the simulated world.")  # fmt: skip


def _parts(result: Result, films: Sequence[Attempt]) -> Iterator[str]:
    yield "".join(f"<p>{text(note)}</p>" for note in result.notes)
    yield grid(heads(), rows(result.groups))
    yield ("<p class=about>Of each group the share of successes with its 95 % interval (Wilson); time to success: "
           "median; idle: share of the engaged time without an action; jerk: root mean square of the goals of the body "
           "joints, median over episodes.</p>")  # fmt: skip
    for found in result.groups:
        yield f"<h2>{text(found.task)}, {text(found.split)} starts</h2>"
        yield table(_figures(found))
        if found.split != HELD_OUT:
            yield _map(found)
    yield "<h2>What ran</h2>" + table([(k, _plain(v)) for k, v in (*result.policy.items(), *result.conditions.items())])
    if films:
        yield "<h2>Failures</h2>"
    for attempt in films:
        yield _film(attempt)
    yield "<details open><summary>Episodes</summary>" + _episodes(result.episodes) + "</details>"


def _figures(found: Group) -> list[tuple[str, str]]:
    t = found.t_inference_ms
    return [
        ("success", f"{found.successes} of {found.episodes}: {found.rate:.0%}, {found.low:.0%} to {found.high:.0%}"),
        ("T_inference", ", ".join(f"{name} {value:.0f} ms" for name, value in t.items() if name != "count")
         + f" of {t['count']:.0f}" if t else "-"),
        ("gaps", f"{found.gaps}, the longest {found.longest_gap_s:.2f} s"),
        ("chunks rejected", f"{found.rejected}: late {found.late}, stale {found.stale}"),
        ("fallbacks", said(found.fallbacks)), ("watchdog", str(found.watchdog)), ("faults", said(found.faults)),
    ]  # fmt: skip


def _map(found: Group) -> str:
    """Successes of each cluster where it lies on the table: the robot is below the last row."""
    xs = sorted({x for x, _ in CLUSTERS}, reverse=True)
    ys = sorted({y for _, y in CLUSTERS}, reverse=True)
    of = {at: number for number, at in enumerate(CLUSTERS, 1)}

    def cell(x: float, y: float) -> str:
        number = of.get((x, y))
        if number is None:
            return ""
        if number == HELD_OUT_CLUSTER:
            return f"{number}: held out"
        won, tried = found.by_cluster.get(number, [0, 0])
        return f"{number}: {won}/{tried}"

    heads = ["", *(f"y {100 * y:.0f} cm" for y in ys)]
    return grid(heads, [[f"x {100 * x:.0f} cm", *(cell(x, y) for y in ys)] for x in xs])


def _film(attempt: Attempt) -> str:
    e = attempt.episode
    pictures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        f"<figcaption>{t_s:.1f} s</figcaption></figure>"
        for t_s, jpeg in attempt.film
    )
    about = f"{e.task}, cluster {e.cluster}, index {e.index}: {e.ended} after {e.duration_s:.1f} s; {_trouble(e)}"
    return f"<p class=about>{text(about)}</p><div class=strip>{pictures}</div>"


def _trouble(e: Episode) -> str:
    return said({"gaps": e.gaps, **e.rejected, "holds": e.holds, **e.faults})


def _episodes(episodes: Sequence[Episode]) -> str:
    shown = [(e.task, str(e.cluster), str(e.index), e.ended, f"{e.duration_s:.1f}", f"{e.idle:.1%}", _trouble(e),
              said(e.rungs)) for e in episodes[:MAX_ROWS]]  # fmt: skip
    left = len(episodes) - len(shown)
    return grid(("task", "cluster", "index", "ended", "s", "idle", "trouble", "requests"), shown, " class=events") + (
        f"<p class=about>{left} more are in the JSON.</p>" if left else "")  # fmt: skip


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) or "-"
    return ", ".join(map(str, value)) or "-" if isinstance(value, (list, tuple)) else str(value)
