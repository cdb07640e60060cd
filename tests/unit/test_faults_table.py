"""The fault table: complete, consistent, and the same everywhere it is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vlad import failsafe
from vlad.faults import BY_NAME, FAULTS, MAX_REPEAT, STAGE_FAULTS, Fault, Reaction

ROOT = Path(__file__).resolve().parents[2]
C_IDENTIFIER = re.compile(r"VLAD_F_([A-Z0-9_]+)")


def test_ids_are_1_to_50_and_names_are_distinct() -> None:
    assert [fault.id for fault in FAULTS] == list(range(1, 51))
    assert len(BY_NAME) == 50
    assert all(re.fullmatch(r"[a-z][a-z0-9_]+", fault.name) for fault in FAULTS)


def test_reactions_are_those_of_the_c_core() -> None:
    text = (ROOT / "csrc/vlad.h").read_text()
    body = re.search(r"enum vlad_reaction \{(.*?)\}", text, re.S)
    assert body
    names = [name for name in re.findall(r"VLAD_(\w+)", body[1]) if name != "N_REACTIONS"]
    assert names == [reaction.name for reaction in Reaction]


def test_stages_are_those_of_the_c_core_in_their_order() -> None:
    names = re.findall(r"VLAD_STAGE_(\w+),", (ROOT / "csrc/watchdog.h").read_text())
    assert [name.lower() for name in names] == list(STAGE_FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.test_id)
def test_every_row_says_all_it_must(fault: Fault) -> None:
    assert fault.title and fault.detect and fault.response and fault.inject
    assert fault.react_ms is not None or fault.bound, "no bound and no word about it"
    assert fault.clear_after_ms >= 0
    assert (fault.repeat_n == 0) == (fault.repeat_window_s == 0)
    assert 0 <= fault.repeat_n <= MAX_REPEAT
    assert not (fault.latch and fault.repeat_n), "latched at once and by repetition"
    if fault.react_ms is not None and fault.rest_ms is not None:
        assert fault.react_ms <= fault.rest_ms
    if fault.latch:
        assert fault.reaction >= Reaction.HOLD, "a latch that does not hold"
    assert fault.reaction != Reaction.LIMP, "torque off is only ever commanded"
    assert "|" not in fault.title + fault.detect + fault.response + fault.inject


@pytest.mark.parametrize("name", failsafe.GENERATED)
def test_generated_files_are_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == failsafe.GENERATED[name]()


def test_the_command_notices_a_file_that_is_not_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "csrc").mkdir()
    monkeypatch.setattr(failsafe, "ROOT", tmp_path)
    assert failsafe.main([]) == 1
    assert "python -m vlad.faults --write" in capsys.readouterr().err
    assert failsafe.main(["--write"]) == 0
    assert failsafe.main([]) == 0
    (tmp_path / "FAILSAFE.md").write_text("stale")
    assert failsafe.main([]) == 1


def test_c_sources_use_only_faults_of_the_table() -> None:
    known = {name.upper() for name in BY_NAME}
    for path in [*ROOT.glob("csrc/*.[ch]"), *ROOT.glob("vlad/_native/*.pyx")]:
        unknown = set(C_IDENTIFIER.findall(path.read_text(encoding="utf-8"))) - known
        assert not unknown, f"{path.name}: {unknown}"


def test_failsafe_states_reaction_latch_and_bounds_of_each_row() -> None:
    rows = [line for line in failsafe.markdown().splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 50
    for fault, line in zip(FAULTS, rows, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 10
        assert cells[4] == fault.reaction.name
        assert cells[5] == failsafe.latch_text(fault)
        assert cells[6] == failsafe.clear_text(fault)
        assert cells[9] == fault.test_id
    assert "| 50 ms | 600 ms; react: no new observation |" in rows[0]
    assert "510 ms" in rows[30] and "850 ms" in rows[30]
