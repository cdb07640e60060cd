"""`vlad report`: what the page says is what was recorded, and nothing recorded gets out of its place."""

from __future__ import annotations

import argparse
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlad import report
from vlad.demo import CONFIG, Demo
from vlad.errors import VladError
from vlad.flight_file import read
from vlad.main import main as vlad_main
from vlad.report_figures import episodes, figures, steps
from vlad.report_page import page
from vlad.report_plots import envelope, spans
from vlad.report_run import Run, from_flight
from vlad.servo import MODES
from vlad.sim.session import sample as sample_of

RUNS = Path(__file__).resolve().parent.parent / "replay/runs"
S = 1_000_000_000
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&$\\frac{\x00\x1b[31m"
EXTERNAL = re.compile(r"""(?:src|href|xlink:href)\s*=\s*["'](?!data:image/(?:jpeg|png);base64,|#)""")


class Tags(HTMLParser):
    """Every element of a page, and whether all that needs an end has one."""

    VOID = frozenset({"meta", "img", "path", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and tag != "p":
            while self.open and self.open[-1] == "p":
                self.open.pop()
            assert self.open.pop() == tag


def checked(text: str) -> Tags:
    """Well-formed, no script, nothing from outside."""
    tags = Tags(text)
    assert not tags.names & {"script", "iframe", "object", "embed", "link", "form", "base"}
    assert not [a for a in tags.attributes if a.startswith("on")]
    assert not EXTERNAL.search(text)
    assert "default-src 'none'" in text and "@import" not in text and "url(http" not in text
    return tags


# --- a flight record ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow() -> Run:
    return from_flight(RUNS / "slow.mcap")


def test_figures_of_a_record(slow: Run) -> None:
    """Against the raw messages of the file, counted here by hand."""
    flight = read(RUNS / "slow.mcap", only=lambda topic: topic in ("/vlad/tick", "/vlad/event"))
    ticks = flight.rows[1]
    events = [m for _, m in flight.notes["/vlad/event"]]
    found = figures(slow)
    json.dumps(found, allow_nan=False)
    assert found["wire"]["goals"] == sum(t["wrote"] for t in ticks)
    engaged = [t for t in ticks if MODES[t["mode"]] == "engaged"]
    idle = [t for t in engaged if not t["queue_depth"]]
    assert found["idle_share"] == len(idle) / len(engaged) > 0
    chunks = [e for e in events if e["event"] == "chunk"]
    assert sum(found["chunks"]["by_verdict"].values()) == len(chunks) == 3
    assert found["t_inference_ms"]["max"] == max(e["t_inference_ms"] for e in chunks) > 1800
    assert found["gaps"]["count"] == sum(e["event"] == "gap" for e in events)
    assert {f["name"]: f["reaction"] for f in found["faults"]}["inference_hung"] == "hold"
    assert found["servo_late_us"]["max"] == max(t["late_ns"] for t in ticks) / 1e3
    assert found["modes"]["engaged"] == pytest.approx(len(engaged) / len(ticks), abs=0.01)
    assert 0 < max(found["wire"]["worst_step_share"].values()) <= 1
    assert "pictures" in " ".join(found["missing"])


@pytest.mark.parametrize("name", ["unplugged", "not_finite"])
def test_a_page_of_each_recorded_run(name: str, tmp_path: Path) -> None:
    out = tmp_path / "x.html"
    assert vlad_main(["report", str(RUNS / f"{name}.mcap"), "-o", str(out)]) == 0
    text = out.read_text()
    tags = checked(text)
    assert "svg" in tags.names and len(text) < 3_000_000
    run = from_flight(RUNS / f"{name}.mcap")
    for fault in figures(run)["faults"]:
        assert f"F{fault['id']:02d} " in text and f"{fault['id']} {fault['name']}" in text
    assert not re.search(r"\bnan\b", re.sub(r"<details.*|F11 NaN", "", text, flags=re.S))


def test_the_age_of_actions_is_what_the_loop_counted(slow: Run) -> None:
    ages = slow.columns["age_ms"]
    known = ages[~np.isnan(ages)]
    assert len(known) > 100 and known.min() > 0 and known.max() < 3334
    # between two ticks of one chunk an action gets older as time passes
    assert np.median(np.diff(known)) == pytest.approx(10, abs=1)


def test_no_reading_before_a_servo_has_answered(slow: Run) -> None:
    assert np.nanmin(slow.columns["voltage_v"]) > 5


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert vlad_main(["report", "--json", str(RUNS / "sweep.mcap")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["runs"][0]["kind"] == "flight record" and said["runs"][0]["duration_s"] > 3


@pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n", b"no mcap at all" * 100])
def test_what_is_no_record_is_an_error(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.mcap").write_bytes(content)
    assert vlad_main(["report", str(tmp_path / "x.mcap"), "-o", str(tmp_path / "x.html")]) == 1
    assert "x.mcap" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


# --- a directory ----------------------------------------------------------------------------------


def status(**more: Any) -> dict[str, Any]:
    joint = {"goal": 0.1, "position": 0.2, "temperature_c": 31, "voltage_v": 11.9, "load": 0.5, "min": -1.0, "max": 1.0}
    return {"mode": "engaged", "reaction": "none", "queue_depth": 20, "t_execution_ms": 700.0,
            "arm": {"joints": {"pan": joint, "grip": joint}}, **more}  # fmt: skip


def left_behind(directory: Path, seconds: float = 10, rate: float = 20, **names: str) -> Path:
    """What a demo of so many seconds leaves, with a fault and a gap in it. names: instead of the usual."""
    directory.mkdir(exist_ok=True)
    n = int(seconds * rate)
    samples = [sample_of(S + int(i * S / rate), status(queue_depth=50 - i % 50)) for i in range(n)]
    if n > 50:
        samples[n // 2]["load"] = [0.97, -0.1]  # one sample of an hour
    events: list[dict[str, Any]] = [
        {"t_ns": S + i * S, "event": "chunk", "chunk": i, "rung": names.get("rung", "full"), "cold": i == 0,
         "verdict": "accepted", "t_request_ns": S + i * S - 60_000_000, "t_obs_ns": S, "t_inference_ms": 60.0,
         "predicted_ms": 70.0, "t_execution_ms": 900.0 - i % 7, "encoded": 3} for i in range(int(seconds))]  # fmt: skip
    events += [
        {"t_ns": 3 * S, "event": "fault", "id": 19, "name": "servo_silent", "reaction": "hold", "active": True,
         "latched": True, "text": names.get("text", "One servo does not answer")},
        {"t_ns": 5 * S, "event": "fault", "id": 19, "name": "servo_silent", "reaction": "none", "active": False,
         "latched": False, "text": ""},
        {"t_ns": 6 * S, "event": "gap", "cause": names.get("cause", "late"), "duration_ms": 120.0},
    ]  # fmt: skip
    final = status(policy={"name": "sweep", "chunk_size": 50, "rate_hz": 30.0, "threshold_ms": 1100.0},
                   execution={"engaged_ticks": 1000, "covered_ticks": 990, "starved_ticks": {"late": 10, "cold": 0},
                              "action_age_max_ms": 812.0},
                   versions={"vlad": names.get("version", "0.1.0")},
                   wire={"goals": 1000, "violations": [],
                         "worst_step_ticks": {"pan": {"seen": 8, "bound": 16}}})  # fmt: skip
    if "joint" in names:
        joints = final["arm"]["joints"]
        final["arm"]["joints"] = {names["joint"]: joints["pan"], "grip": joints["grip"]}
    (directory / "report.json").write_text(json.dumps(final))
    for name, rows in (("samples", samples), ("events", events)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_a_directory(tmp_path: Path) -> None:
    (run,), notes = report.gather(left_behind(tmp_path / "demo"))
    found = figures(run)
    assert not notes and found["idle_share"] == 0.01 and found["starved_ticks"] == {"late": 10}
    assert found["wire"]["worst_step_share"] == {"pan": 0.5} and steps(run) is None
    assert found["following_error_max"] == {"pan": 0.1, "grip": 0.1}
    assert found["chunks"]["by_rung"] == {"full": {"accepted": 10}}
    (fault,) = episodes(run)
    assert (fault.fault, fault.end_ns - fault.start_ns, fault.latched, fault.reaction) == (19, 2 * S, True, "hold")
    text = page("t", [run], notes)
    checked(text)
    assert "One servo does not answer" in text and "no lateness of single ticks" in text


def test_a_directory_and_its_flight_records(tmp_path: Path) -> None:
    directory = left_behind(tmp_path / "demo")
    (directory / "flight").mkdir()
    for i in range(6):
        (directory / f"flight/{i}.mcap").write_bytes((RUNS / "not_finite.mcap").read_bytes() if i else b"junk")
    runs, notes = report.gather(directory)
    assert [r.kind for r in runs] == ["run", *["flight record"] * (len(runs) - 1)] and len(runs) >= 4
    assert "6 flight records" in notes[0]


def test_a_soak_that_left_only_events(tmp_path: Path) -> None:
    directory = left_behind(tmp_path / "real")
    (directory / "samples.jsonl").unlink()
    (directory / "report.json").unlink()
    with (directory / "events.jsonl").open("a") as file:
        file.write(json.dumps({"t_ns": 8 * S, "event": "mode", "from": "engaged", "to": "holding"}) + "\n")
        file.write('{"cut sho')
    (run,), _ = report.gather(tmp_path)
    found = figures(run)
    assert found["modes"].keys() == {"engaged", "holding"} and "idle_share" not in found
    missing = " ".join(found["missing"])
    assert "no samples.jsonl" in missing and "no report.json" in missing
    checked(page("t", [run], []))


@pytest.mark.parametrize(("name", "content", "said"), [
    ("events.jsonl", "[]\n", "events.jsonl:1: no object"), ("events.jsonl", "{\n", "events.jsonl:1:"),
    ("samples.jsonl", '{"t_ns": 1}\n', "samples.jsonl: KeyError"),
    ("samples.jsonl", '{"t_ns": 1, "mode": "flying", "queue_depth": 1}\n', "samples.jsonl: ValueError"),
    ("report.json", "{", "report.json:"),
])
def test_a_broken_directory_is_an_error(
    name: str, content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = left_behind(tmp_path / "demo")
    (directory / name).write_text(content)
    assert vlad_main(["report", str(directory), "-o", str(tmp_path / "x.html")]) == 1
    assert said in capsys.readouterr().err


def test_a_latched_fault_lasts_until_it_is_cleared() -> None:
    def fault(second: int, active: bool) -> dict[str, Any]:
        return {"t_ns": second * S, "event": "fault", "id": 18, "reaction": "hold", "active": active, "latched": True}

    def clear(second: int, outcome: str) -> dict[str, Any]:
        return {"t_ns": second * S, "event": "operator", "verb": "clear", "outcome": outcome}

    run = Run("x", "run", events=[fault(1, True), clear(2, "ok"), fault(3, False), clear(4, "refused"), clear(6, "ok"),
                                  fault(8, True), fault(9, False)])  # fmt: skip
    assert [(e.start_ns // S, e.end_ns // S, e.latched) for e in episodes(run)] == [(1, 6, True), (8, 9, True)]


def test_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vlad_main(["report", str(tmp_path)]) == 1
    assert vlad_main(["report", str(tmp_path / "none")]) == 1
    assert "neither a flight record" in capsys.readouterr().err


def test_strange_events_are_counted_and_left_out(tmp_path: Path) -> None:
    directory = left_behind(tmp_path / "demo")
    strange: list[Any] = [{"event": "chunk"}, {"t_ns": -1, "event": "x"}, {"t_ns": 5, "event": 7},
                          {"t_ns": 2 * S, "event": "chunk", "verdict": [1]},
                          {"t_ns": 2 * S, "event": "fault", "id": 999, "active": True},
                          {"t_ns": 2 * S, "event": "fault", "id": [1], "active": True}]  # fmt: skip
    with (directory / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(e) + "\n" for e in strange)
    (run,), _ = report.gather(directory)
    assert "4 events are not of their form" in " ".join(run.missing)
    assert [e.fault for e in episodes(run)] == [19]


# --- hostile content ------------------------------------------------------------------------------


def test_whatever_was_recorded_is_only_text(tmp_path: Path) -> None:
    directory = left_behind(tmp_path / "<b>demo", text=EVIL, cause=EVIL, rung=EVIL, joint=EVIL, version=EVIL)
    (run,), _ = report.gather(directory)
    run.facts = {"task": EVIL, EVIL: EVIL}
    run.config = EVIL * 10_000
    jpeg = b"\xff\xd8" + EVIL.encode()
    run.pictures = [(2 * S, EVIL, jpeg)] * 3
    text = page(EVIL, [run], [EVIL])
    tags = checked(text)
    assert "b" not in tags.names and text.count("&lt;script&gt;") > 8 and "<script" not in text
    assert "\x00" not in text and "\x1b" not in text
    assert len(text) < 2_000_000


def test_pictures_that_are_none_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    flight = read(RUNS / "sweep.mcap", only=lambda topic: topic == "/vlad/event")
    flight.notes["/camera/top"] = [(flight.first_ns, m) for m in (
        {"data": "<svg onload=alert(1)>"}, {"data": 7}, {}, {"data": "/9j/"}, {"data": "/9j/" + "A" * 200_000})]
    monkeypatch.setattr("vlad.report_run.read", lambda path, only: flight)
    run = from_flight(RUNS / "sweep.mcap")
    assert [(camera, jpeg) for _, camera, jpeg in run.pictures] == [("top", b"\xff\xd8\xff")]
    assert "4 pictures are no JPEG" in " ".join(run.missing)


# --- long runs ------------------------------------------------------------------------------------


def test_an_hour_stays_small_and_keeps_its_peak(tmp_path: Path) -> None:
    (run,), _ = report.gather(left_behind(tmp_path / "demo", seconds=3600, rate=5))
    assert len(run.t_ns) == 18_000 and len(run.chunks) == 3600
    text = page("t", [run], [])
    checked(text)
    assert len(text) < 5_000_000
    t = run.t_ns / 1e9
    _, shown = envelope(t, run.columns["load"][:, 0])
    assert len(shown) < 2000 and shown.max() == 0.97


def test_envelope() -> None:
    t = np.arange(100_000) / 100
    y = np.sin(t)
    y[12_345], y[50_000] = 9.0, -9.0
    shown_t, shown = envelope(t, y, 500)
    assert len(shown) <= 1000 and shown.max() == 9.0 and shown.min() == -9.0
    assert np.all(np.diff(shown_t) > 0) and set(zip(shown_t, shown, strict=True)) <= set(zip(t, y, strict=True))
    y[20_000:30_000] = np.nan
    assert np.isnan(envelope(t, y, 500)[1]).sum() > 10, "what is not known stays a gap"
    few = np.arange(10.0)
    assert envelope(few, few)[1] is few


def test_spans() -> None:
    t = np.arange(6.0)
    assert list(spans(t, np.array([3.0, 3, 3, 2, 2, 5]))) == [(0, 3, 3), (3, 5, 2), (5, 5, 5)]
    assert list(spans(t[:0], t[:0])) == []


# --- the demo -------------------------------------------------------------------------------------


def test_the_demo_keeps_the_flight_records_of_its_own_run(tmp_path: Path) -> None:
    flights, out = tmp_path / "flight", tmp_path / "out"
    flights.mkdir()
    out.mkdir()
    options = argparse.Namespace(config=CONFIG, seconds=1, mode="async", workers=False, seed=0, task=None)
    it = Demo(options, out, tmp_path / "x.vlad", tmp_path)
    (flights / "flight-000002-asked.mcap").write_bytes(b"new")
    (out / "flight").mkdir()
    (out / "flight/flight-000000-before.mcap").write_bytes(b"of the last demo")
    it._keep_flights()
    assert [p.name for p in (out / "flight").iterdir()] == ["flight-000002-asked.mcap"]


def test_errors_of_the_report_are_errors_of_vlad() -> None:
    assert issubclass(report.ReportError, VladError)
