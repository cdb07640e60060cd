"""The page of `vlad quantize --report`: what was measured, the plots, and what was chosen and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlad.html_page import document, grid, table, text
from vlad.quantize.plots import error_growth, flow_plot, groups_plot, pareto

Results = Mapping[str, Any]


def page(found: Results) -> str:
    """One page without scripts or outside resources, from what vlad/quantize/results.py made."""
    return document(
        f"Quantisation of {found['bundle']}",
        "\n".join([*_outcome(found), *_blocks(found), *_trade(found), *_flow(found), *_groups(found)]),
        "Errors are shares of each joint's range in the dataset; times are CPU time as a share of float32's, measured "
        "in turn on the machine that wrote this, and decide nothing: a model of operations and bytes chooses.",
    )


def _outcome(found: Results) -> Iterator[str]:
    total, errors, seen = found["total"], found["errors"], found["observations"]
    settings = found["settings"]
    rows = [
        ("written", found["written"] or "nothing: no choice passes the gate"),
        ("blocks", f"{_mb(total['bytes'])} instead of {_mb(total['bytes_before'])} MB"),
        ("CPU time of a chunk", f"{total['latency']:.0%} of float32's"),
    ]
    if errors:
        rows += [
            ("chunk error", f"mean {_share(errors['chunk_mae'])}, greatest {_share(errors['chunk_max'])} of each "
                            f"joint's range (allowed mean: {_share(settings['budget'])})"),
            ("flow step cosine", f"{errors['cosine']:.5f} at least (more than {settings['gate']['cosine']:g} needed)"),
        ]  # fmt: skip
    if flow := found["flow"]:
        same = flow["chosen"] == flow["own"]
        rows.append(("flow", flow["chosen"] + (" as before" if same else f" instead of {flow['own']}")))
        if not same:
            rows.append(("with the change of the flow", f"chunks are {_share(flow['error_with_choice'])} from those of "
                         f"float32 and {flow['own']}"))  # fmt: skip
    calibrated = f"{sum(seen['calibrate'].values())} of episodes {_list(seen['calibrate'])} calibrated"
    rows.append(("observations", f"{calibrated}, {seen['judge']} of episodes {_list(seen['held_out'])} judged, "
                 f"{seen['verify']} verified the whole"))  # fmt: skip
    rows.append(("dataset", found["dataset"]))
    yield table(rows)
    yield from (f"<p><strong>Note:</strong> {text(note, 2000)}.</p>" for note in found["notes"])


def _blocks(found: Results) -> Iterator[str]:
    yield "<h2>Blocks</h2>"
    yield grid(
        ("block", "stored as", "MB before", "MB now", "CPU time", "groups"),
        [(b["name"], b["dtype"], _mb(b["bytes_before"]), _mb(b["bytes"]), f"{b['latency']:.0%}", b["groups_text"])
         for b in found["blocks"]],
    )  # fmt: skip
    yield "<h3>Each block as a whole in each scheme, the others in float32</h3>"
    yield ("<p class=about>What a choice by block would do. The action expert stays floating point unless asked "
           "otherwise.</p>")  # fmt: skip
    yield grid(
        ("block", "scheme", "output cosine", "least step cosine", "chunk mean", "chunk greatest", "CPU time"),
        [(w["block"], w["scheme"], f"{w['output_cosine']:.6f}", f"{w['errors']['cosine']:.6f}",
          _share(w["errors"]["chunk_mae"]), _share(w["errors"]["chunk_max"]), f"{w['latency']:.0%}")
         for w in found["wholes"]],
    )  # fmt: skip
    if any(w["steps"] for w in found["wholes"]):
        yield _figure("Error over the flow steps", "Mean distance of the noisy actions from float32's after each step, "
                      "one whole block in one scheme.", error_growth(found))  # fmt: skip


def _trade(found: Results) -> Iterator[str]:
    if not found["path"]:
        return
    yield "<h2>Latency against accuracy</h2>"
    yield _figure(
        "The path of the search", "Each point adds the best bargain that is left. Line: predicted, errors of groups "
        "adding as squares. Crosses: measured on the whole policy with held-out observations.", pareto(found),
    )  # fmt: skip
    yield "<details><summary>Every move</summary>"
    yield grid(
        ("", "block", "group", "scheme", "saved so far", "predicted error", ""),
        [(str(i + 1), m["block"], m["group"], m["scheme"], f"{m['saved']:.1%}", _share(m["predicted_error"]),
          "kept" if m["kept"] else "given back") for i, m in enumerate(found["path"])],
    )  # fmt: skip
    yield "</details>"
    yield grid(
        ("moves", "saved (model)", "chunk mean", "chunk greatest", "least step cosine", ""),
        [(str(v["moves"]), f"{v['saved']:.1%}", _share(v["errors"]["chunk_mae"]), _share(v["errors"]["chunk_max"]),
          f"{v['errors']['cosine']:.5f}", "holds" if v["holds"] else "misses the gate") for v in found["verified"]],
    )  # fmt: skip


def _flow(found: Results) -> Iterator[str]:
    flow = found["flow"]
    if not flow:
        return
    yield "<h2>Flow steps and solver</h2>"
    gate = found["settings"]["gate"]["chunk_mae"]
    if flow["fine_is_solution"]:
        about = f"The fine solution is {flow['fine']}; half as fine, it differs by {_share(flow['fine_mae'])}."
    else:
        about = (f"There is no solution to measure against: {flow['fine']} differ from half as many by "
                 f"{_share(flow['fine_mae'])}, so between its own flow times the policy's velocity means little. Only "
                 "the distance from its own flow counts.")  # fmt: skip
    if flow["fine_is_solution"] and flow["table"][0]["chunk_mae"] > gate:
        about += (f" The policy's own flow is {_share(flow['table'][0]['chunk_mae'])} off it: it was trained at its "
                  "own flow times alone, or takes too few.")  # fmt: skip
    yield _figure("Error by evaluations of the expert", about + f" Dashed: the gate, {_share(gate)}.", flow_plot(found))
    rows = []
    for f in flow["table"]:
        name = f"{f['steps']} steps of {f['solver']}"
        rows.append((name, str(f["evaluations"]), _share(f["own_mae"]), _share(f["chunk_mae"]), _share(f["chunk_max"]),
                     "chosen" if name == flow["chosen"] else ""))  # fmt: skip
    yield "<details><summary>Every flow that was tried</summary>"
    yield grid(("flow", "evaluations", "from its own flow", "from the fine solution", "greatest of that", ""), rows)
    yield "</details>"


def _groups(found: Results) -> Iterator[str]:
    yield "<h2>Groups of layers</h2>"
    yield _figure("Chunk error of each group alone", "Mean, on held-out observations; everything else in float32. "
                  "Dashed: the gate. Ringed: chosen.", groups_plot(found))  # fmt: skip
    yield "<details><summary>Every group in every scheme</summary>"
    yield grid(
        ("block", "group", "scheme", "output cosine", "output error", "least step cosine", "chunk mean",
         "chunk greatest", "CPU time of the block", "kB saved", "saved", ""),
        [(g["block"], g["group"], g["scheme"], f"{g['output_cosine']:.6f}", f"{g['output_error']:.2%}",
          *_chunk(g["errors"]), f"{g['latency']:.0%}", f"{g['saved_bytes'] / 1e3:.1f}", f"{g['saved']:.2%}",
          "chosen" if g["chosen"] else "" if g["passes"] else "misses the gate") for g in found["groups"]],
        " class=events",
    )  # fmt: skip
    if found["untried"]:
        words = ", ".join(f"{u['block']} {u['group']} {u['scheme']}" for u in found["untried"])
        yield f"<p>Not tried, for want of evaluations or time: {text(words, 20000)}.</p>"
    yield "</details>"
    yield "<details><summary>Outliers in what the layers read</summary>"
    yield ("<p class=about>The greatest magnitude over the 99.9th percentile, of the group's most extreme input; what "
           "the range of static8 was taken from there.</p>")  # fmt: skip
    rows = [(block, o["group"], f"{o['ratio']:.1f}", o["clipped"])
            for block, each in found["outliers"].items() for o in each]  # fmt: skip
    yield grid(("block", "group", "ratio", "range of static8"), rows)
    yield "</details>"


def _figure(title: str, about: str, drawn: str) -> str:
    return f"<figure><h3>{text(title)}</h3><p class=about>{text(about, 2000)}</p>{drawn}</figure>"


def _chunk(errors: Mapping[str, float] | None) -> tuple[str, str, str]:
    """Least step cosine, mean and greatest error; what was not measured is not shown."""
    if errors is None:
        return "-", "-", "-"
    return f"{errors['cosine']:.6f}", _share(errors["chunk_mae"]), _share(errors["chunk_max"])


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f}"


def _share(value: float) -> str:
    """In percent with two digits that count."""
    if 0 < value < 1e-6:
        return "< 0.0001 %"
    return f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.0f} %"


def _list(episodes: Mapping[str, int]) -> str:
    names = list(episodes)
    return ", ".join(names if len(names) <= 8 else [*names[:6], "…", names[-1]])
