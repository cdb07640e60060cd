"""`vlad plan`: its formulas, its verdicts on published cases, what it advises, and the command itself."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import tiny_smolvla
from vlad import bundle as bundles
from vlad.build.architecture import Architecture
from vlad.build.context import context_flops
from vlad.build.expert import expert_flops
from vlad.build.prefill import prefill_flops
from vlad.build.vision import vision_flops
from vlad.errors import BundleError, ConfigError, Refused
from vlad.ladder import parse_rung
from vlad.load_check import check_load
from vlad.main import main
from vlad.plan import measure
from vlad.plan.advice import TOGETHER, Advice, advise
from vlad.plan.board import Board, Rate, built_in, load_board, parse_board, to_toml
from vlad.plan.command import UNFIT, UNKNOWN
from vlad.plan.prediction import Setup, evaluate, predict, timing
from vlad.plan.text import estimate, verdict
from vlad.plan.timeline import ARM, PASSES, Timeline, simulate
from vlad.plan.work import PolicyWork, Work, act, of_manifest, smolvla

S = 1_000_000_000
SOURCE = "measured: by nobody, for a test"

PROFILE = f"""
format_version = 1
name = "plain"
about = "round figures"
off_by = 1.15
memory = {{ gb = 2, source = "{SOURCE}" }}
frame = {{ ms = 10, source = "{SOURCE}" }}
[[unit]]
name = "cpu"
threads = 2
bandwidth = {{ gb_s = 10, source = "{SOURCE}" }}
call = {{ us = 1000, source = "{SOURCE}" }}
rate = [
  {{ dtype = "float32", reuse = 1000, gflop_s = 100, source = "{SOURCE}" }},
  {{ dtype = "float32", reuse = 10, gflop_s = 25, source = "{SOURCE}" }},
  {{ dtype = "int8", reuse = 100, gflop_s = 200, source = "{SOURCE}" }},
]
[[unit]]
name = "npu"
threads = 1
bandwidth = {{ gb_s = 5, source = "{SOURCE}" }}
call = {{ us = 2000, source = "{SOURCE}" }}
rate = [{{ dtype = "int8", reuse = 100, gflop_s = 1000, source = "{SOURCE}" }}]
"""


def plain() -> Board:
    return parse_board(tomllib.loads(PROFILE), "plain.toml")


def policy(**changes: Any) -> PolicyWork:
    """Two cameras, four steps; vision 10 GFLOP, an expert that is all weights."""
    blocks = (
        Work("vision", 2, 10e9, 20e6, 5_000_000, "float32"),
        Work("prefill", 1, 2e9, 40e6, 10_000_000, "float32"),
        Work("expert", 4, 20e6, 4e6, 1_000_000, "float32"),
    )
    made = PolicyWork("made up", "smolvla", blocks, 2, 4, 50, 30.0, 100, 30, True)
    return dataclasses.replace(made, **changes)


# --- published cases --------------------------------------------------------------------------------


def test_nxp_act_at_60_hz_has_13_ms_of_slack_which_is_no_margin() -> None:
    outcome = evaluate(Setup(60, 100, latency_ns=320_000_000, threshold=0.2))
    assert outcome.slack_ns / 1e6 == pytest.approx(13.3, abs=0.1)
    assert outcome.idle == 0
    assert not outcome.fits  # neither the safety factor nor the braking distance is in 13 ms
    seen = simulate(outcome)
    assert seen.verdicts["late"] >= 2
    assert 0.15 < seen.idle_share < 0.25


@pytest.mark.parametrize(("t_s", "idle"), [(6.15, 0.73), (29.1, 0.94)])
def test_nxp_smolvla_is_idle_most_of_the_time(t_s: float, idle: float) -> None:
    outcome = evaluate(Setup(30, 50, latency_ns=round(t_s * S)))
    assert outcome.idle == pytest.approx(idle, abs=0.005)
    assert not outcome.fits


def test_a_chunk_older_than_a_cold_start_may_be_never_moves_the_arm_in_either_mode() -> None:
    for mode in ("async", "sync"):
        outcome = evaluate(Setup(30, 50, latency_ns=round(29.1 * S), mode=mode))
        assert outcome.check.fits == (mode == "sync")
        assert not outcome.fits
        assert "would not move" in verdict(outcome)
        seen = simulate(outcome)
        assert seen.idle_share == 1
        assert set(seen.verdicts) == {"stale"}
        assert seen.held


def test_the_built_in_board_reproduces_what_nxp_measured_within_what_it_claims() -> None:
    board = load_board("imx95").with_threads(6)
    for made, published_s in ((smolvla(3), 29.1), (act(3), 2.86)):
        predicted_s = predict(made, board, {}).total_ns / S
        assert 1 / board.off_by < predicted_s / published_s < board.off_by
    assert predict(smolvla(3), board, {}).total_ns / S == pytest.approx(29.1, rel=0.05)


# --- formulas ---------------------------------------------------------------------------------------


def test_a_block_is_bound_by_operations_or_weights_and_pays_for_each_call() -> None:
    made = predict(policy(), plain(), {})
    vision, prefill, expert = made.blocks
    assert vision.each_ns == pytest.approx(10e9 / 100e9 * S + 1e6)  # reuse 1000, the outermost rate
    assert vision.bound == "operations"
    assert prefill.compute_ns == pytest.approx(2e9 / 50e9 * S)  # reuse 100, half way between 10 and 1000
    assert expert.stream_ns == pytest.approx(4e6 / 10e9 * S)
    assert expert.compute_ns == pytest.approx(20e6 / 25e9 * S)
    assert expert.bound == "call"
    assert made.total_ns == round(2 * 10e6 + 2 * vision.each_ns + prefill.each_ns + 4 * expert.each_ns)


def test_weights_are_what_binds_a_state_only_refresh() -> None:
    made = predict(policy(), plain(), {}, parse_rung("state_only+steps:2"))
    prefill, expert = made.blocks
    assert prefill.work.flops == 2e9 / 100
    assert prefill.bound == "weights"
    assert prefill.each_ns == pytest.approx(40e6 / 10e9 * S + 1e6)
    assert expert.work.calls == 2
    assert made.frames_ns == 0


def test_a_rung_that_reuses_is_a_pass_without_vision() -> None:
    made = predict(policy(), plain(), {}, parse_rung("reuse"))
    assert [b.work.block for b in made.blocks] == ["prefill", "expert"]
    assert policy().of_rung(parse_rung("reuse"), encoded=1)[0].calls == 1


def test_mixed_weights_are_shared_out_by_their_mean_size() -> None:
    work = Work("vision", 1, 10e9, 2.5 * 5_000_000, 5_000_000, "mixed")
    assert work.shares == {"float32": 0.5, "int8": 0.5}
    mixed = predict(policy(blocks=(work,)), plain(), {}).blocks[0]
    assert mixed.compute_ns == pytest.approx((5e9 / 100e9 + 5e9 / 200e9) * S)


def test_types_without_a_rate_are_computed_in_float32_where_that_is_possible() -> None:
    cpu, npu = plain().unit
    assert cpu.gflop_s("float16", 1000) == cpu.gflop_s("float32", 1000)
    with pytest.raises(ConfigError, match=r"unit npu has no rate for float32 weights .it has int8.*quantise"):
        npu.gflop_s("float32", 100)


@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_published_smolvla_is_what_the_builder_says(cameras: int) -> None:
    arch = dataclasses.replace(
        measure.WIDE, vision_layers=12, layers=16, expert_at=tuple(range(16)), cross_layers=tuple(range(1, 16, 2)),
        cameras=tuple("abc"[:cameras]),
    )  # fmt: skip
    made = smolvla(cameras)
    longest = arch.max_prefix
    assert made.tokens == longest
    assert {w.block: w.flops for w in made.blocks} == {
        "vision": vision_flops(arch), "prefill": prefill_flops(arch, longest),
        "context": context_flops(arch, longest), "expert": expert_flops(arch, longest),
    }  # fmt: skip


@pytest.mark.parametrize(("cameras", "gflop"), [(1, 34.9), (2, 70.3), (3, 107.1)])
def test_published_act_has_the_operations_of_the_roofline(cameras: int, gflop: float) -> None:
    assert sum(w.calls * w.flops for w in act(cameras).blocks) / 1e9 == pytest.approx(gflop, abs=0.05)


def test_another_number_of_cameras_is_close_to_the_policy_built_for_it() -> None:
    fewer, built = smolvla(3).with_cameras(1), smolvla(1)
    for mine, exact in zip(fewer.blocks, built.blocks, strict=True):
        assert mine.calls == exact.calls
        assert mine.flops == pytest.approx(exact.flops, rel=0.05)


def test_longer_chunks_cost_the_expert_alone() -> None:
    longer = policy().with_chunk(100)
    assert longer.block("expert").flops == 2 * policy().block("expert").flops
    assert longer.block("prefill") == policy().block("prefill")


def test_the_verdict_is_that_of_the_load_check() -> None:
    for latency_ns in (100_000_000, 600_000_000, 620_000_000, 640_000_000, 900_000_000):
        outcome = evaluate(Setup(30, 50, latency_ns=latency_ns))
        config = timing(outcome.setup, 80_000_000)
        assert outcome.fits == check_load(config, [latency_ns]).fits
        assert outcome.threshold_ns <= outcome.setup.horizon_ns


def test_a_policy_that_the_board_cannot_hold_does_not_fit() -> None:
    small = msgspec.structs.replace(plain(), memory=msgspec.structs.replace(plain().memory, gb=0.4))
    outcome = evaluate(Setup(10, 50, policy(), small))
    assert outcome.check.fits
    assert outcome.resident_bytes == 330e6 + 1.3 * 64e6
    assert not outcome.fits
    assert "about 0.4 GB are needed" in verdict(outcome)
    assert evaluate(Setup(10, 50, policy(), plain())).fits


# --- profiles ---------------------------------------------------------------------------------------


def test_built_in_profiles_load_and_say_that_they_are_estimates() -> None:
    assert "imx95" in built_in()
    for name in built_in():
        board = load_board(name)
        assert board.name == name
        assert not board.measured
        assert board.off_by > 1.5
        assert "ESTIMATE" in estimate(evaluate(Setup(30, 50, smolvla(1), board)))


def test_a_profile_is_written_as_it_is_read() -> None:
    for board in (plain(), load_board("imx95")):
        assert parse_board(tomllib.loads(to_toml(board)), "again") == board


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "plain"', 'name = "plain"\nwatts = 7', "unknown field `watts`"),
        ("gb_s = 10,", "gb_s = 10, ghz = 2,", r"ghz.*bandwidth"),
        (', source = "measured: by nobody, for a test" }\nframe', " }\nframe", "source"),
        ("measured: by nobody, for a test", "somebody said so", "regex"),
        ("us = 1000", "us = 0", "us"),
        ("us = 1000", "us = nan", r"us|finite|float"),
        ("us = 1000", 'us = "1000"', r"Expected `float`, got `str`"),
        ('dtype = "int8"', 'dtype = "int7"', "dtype"),
        ('name = "npu"', 'name = "cpu"', "two units are called 'cpu'"),
        ("reuse = 10,", "reuse = 1000,", "two rates"),
        ("format_version = 1", "format_version = 2", "format_version"),
    ],
)
def test_a_profile_is_read_strictly(old: str, new: str, said: str) -> None:
    assert old in PROFILE
    with pytest.raises(ConfigError, match=said) as error:
        parse_board(tomllib.loads(PROFILE.replace(old, new, 1)), "my.toml")
    assert str(error.value).startswith("my.toml: ")


def test_an_unknown_board_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no built-in board .those are: imx95.*--measure"):
        load_board("imx96")
    broken = tmp_path / "b.toml"
    broken.write_text("name = ")
    with pytest.raises(ConfigError, match="not TOML"):
        load_board(str(broken))


def test_threads_scale_an_estimate_and_not_a_measurement() -> None:
    board = load_board("imx95")
    assert board.with_threads(6).unit[0].gflop_s("float32", 1000) == pytest.approx(1.5 * 19.3)
    assert board.with_threads(6).unit[1] == board.unit[1]
    with pytest.raises(ConfigError, match="measured with 2 threads"):
        plain().with_threads(4)


# --- advice -----------------------------------------------------------------------------------------


def advice_on(setup: Setup) -> list[Advice]:
    return advise(evaluate(setup))


def slow(**changes: Any) -> Setup:
    """The made-up policy where it is twice too slow."""
    heavy = policy().blocks[0]
    made = policy(blocks=(dataclasses.replace(heavy, flops=60e9), *policy().blocks[1:]))
    return Setup(30, 50, made, plain(), **changes)


def test_advice_is_ordered_cheapest_first() -> None:
    kinds = [re.sub(r"[0-9.]+", "N", a.change) for a in advice_on(slow(threshold=0.3))]
    assert kinds == [
        "threshold auto", "N flow steps", "rung reuse", "rung state_only", "N Hz", "vision in intN",
        "vision in intN on npu", "chunks of N", "N camera", "sync",
    ]  # fmt: skip


def test_what_is_said_to_fit_fits_when_it_is_done() -> None:
    setup = slow()
    by_kind = {a.change: a for a in advice_on(setup)}
    vision = by_kind["vision in int8"]
    assert setup.policy is not None
    done = evaluate(setup.with_policy(setup.policy.with_dtype("vision", "int8")))
    assert (done.fits, done.t_inference_ns, done.idle) == (vision.fits, vision.t_inference_ns, vision.idle)
    rate = next(a for a in by_kind.values() if a.change.endswith(" Hz"))
    slower = dataclasses.replace(setup, rate_hz=float(rate.change.split()[0]))
    assert rate.fits
    assert evaluate(slower).fits
    chunk = next(a for a in by_kind.values() if a.change.startswith("chunks of"))
    size = int(chunk.change.split()[-1])
    assert evaluate(setup.with_policy(setup.policy.with_chunk(size))).fits
    assert not evaluate(setup.with_policy(setup.policy.with_chunk(size - 2))).fits
    assert by_kind["rung reuse"].fits is None


def test_where_no_change_suffices_several_are_put_together() -> None:
    last = advice_on(Setup(30, 50, smolvla(3), load_board("imx95")))[-1]
    assert last.how == TOGETHER
    assert last.fits
    assert re.fullmatch(r"4 flow steps \+ vision in int8 on npu \+ .*Hz", last.change)


def test_a_given_latency_has_no_advice_about_blocks() -> None:
    changes = [a.change for a in advice_on(Setup(60, 100, latency_ns=320_000_000, threshold=0.2))]
    assert changes == ["threshold auto", "48 Hz", "chunks of 125", "sync"]


def test_sync_is_advised_to_be_faster_and_nothing_of_async() -> None:
    changes = [a.change for a in advice_on(Setup(30, 50, smolvla(3), load_board("imx95"), mode="sync"))]
    assert not any(c.startswith(("rung", "chunks", "sync", "threshold")) or c.endswith("Hz") for c in changes)


# --- the timeline -----------------------------------------------------------------------------------


def chunks(seen: Timeline) -> int:
    return sum(seen.verdicts.values())


def test_a_policy_that_fits_keeps_the_arm_moving() -> None:
    seen = simulate(evaluate(Setup(30, 50, latency_ns=300_000_000)))
    assert (chunks(seen), seen.verdicts) == (PASSES, {"accepted": PASSES})
    assert seen.idle_share == 0
    assert [g for g in seen.idle if g.row == ARM and g.start_s > 0] == []


def test_sync_rests_for_every_inference() -> None:
    outcome = evaluate(Setup(30, 50, latency_ns=6_150_000_000, mode="sync"))
    seen = simulate(outcome)
    assert outcome.fits
    assert seen.idle_share == pytest.approx(outcome.idle, abs=0.03)  # braking and settling besides
    rests = [g.end_s - g.start_s for g in seen.idle if g.row == ARM]
    assert all(6.15 <= rest <= 6.5 for rest in rests)


def test_every_row_is_busy_or_idle_all_the_time() -> None:
    outcome = evaluate(Setup(10, 50, policy().with_dtype("vision", "int8"), plain(), on={"vision": "npu"}))
    seen = simulate(outcome)
    assert seen.rows == ("npu", "vision thread", "expert thread", "arm")
    for row in seen.rows:
        spans = sorted((b.start_s, b.end_s) for b in (*seen.bars, *seen.idle) if b.row == row)
        assert spans[0][0] == 0
        assert spans[-1][1] == pytest.approx(seen.seconds, abs=0.02)
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert start == pytest.approx(end, abs=1e-5)
    npu = [b for b in seen.bars if b.row == "npu"]
    assert len(npu) == 2 * PASSES
    assert npu[0].end_s - npu[0].start_s == pytest.approx(outcome.full.blocks[0].each_ns / S)


def test_the_ladder_keeps_a_policy_moving_that_is_too_slow_for_full_passes() -> None:
    plainly = simulate(evaluate(slow()))
    setup = slow(ladder=(parse_rung("reuse"), parse_rung("state_only")))
    assert simulate(evaluate(setup)).idle_share < plainly.idle_share


# --- a bundle, and the command ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_smolvla.build(tmp_path_factory.mktemp("plan") / "tiny.vlad")


def test_the_work_of_a_bundle_is_its_manifest_for_the_longest_task(bundle: Path) -> None:
    manifest = bundles.load(bundle).manifest
    made = of_manifest(manifest, "tiny.vlad")
    assert (made.cameras, made.steps) == (len(manifest.cameras), manifest.flow.steps)
    assert [w.calls for w in made.blocks] == [made.cameras, 1, 1, made.steps]
    assert made.tokens < manifest.prefix.max_tokens
    by_name = {b.name: b for b in manifest.blocks}
    assert made.block("expert").flops == by_name["expert"].flops
    assert made.block("prefill").flops == pytest.approx(by_name["prefill"].flops * made.tokens / (
        made.cameras * manifest.prefix.image_tokens + manifest.max_task_tokens + 1))  # fmt: skip
    assert made.weights_bytes == sum(b.file.bytes for b in manifest.blocks)


def test_a_block_that_is_not_known_is_refused(bundle: Path) -> None:
    manifest = bundles.load(bundle).manifest
    strange = msgspec.structs.replace(manifest.blocks[0], name="memory")
    with pytest.raises(BundleError, match="block 'memory'"):
        of_manifest(msgspec.structs.replace(manifest, blocks=[strange]), "b")


def test_exit_status_and_verdict_first(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(bundle), "--board", "imx95", "--steps", "2"]) == 0
    assert capsys.readouterr().out.startswith("fits: T_inference ")
    assert main(["plan", "--policy", "smolvla", "--board", "imx95"]) == UNFIT
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("does not fit: ")
    assert out[1].startswith("ESTIMATE")


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--latency", "0.32", "--fps", "60", "--chunk", "100", "--threshold", "0.2", "--json"]
    assert main(arguments) == UNFIT
    found = json.loads(capsys.readouterr().out)
    assert found["slack_s"] == pytest.approx(0.0133, abs=1e-4)
    assert found["fits"] is False
    assert found["board"] is None
    assert [a["change"] for a in found["advice"]] == ["threshold auto", "48 Hz", "chunks of 125", "sync"]
    assert main([*arguments, "--mode", "sync"]) == 0
    assert json.loads(capsys.readouterr().out)["slack_s"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "smolvla"], "--board is needed: imx95"),
        (["--policy", "smolvla", "--board", "nowhere"], "no built-in board"),
        (["no-such.vlad", "--board", "imx95"], "no such directory"),
        (["--policy", "act", "--board", "imx95", "--steps", "3"], "has no flow steps"),
        (["--policy", "act", "--board", "imx95", "--on", "expert=npu"], "has no block 'expert'"),
        (["--policy", "act", "--board", "imx95", "--on", "policy=tpu"], "no unit 'tpu': it has cpu, npu"),
        (["--policy", "act", "--board", "imx95", "--on", "policy=npu"], "unit npu has no rate for float32"),
        (["--policy", "act", "--board", "imx95", "--dtype", "policy=int7"], "the types are float32"),
        (["--policy", "act", "--board", "imx95", "--chunk", "400"], "1 to 256 fit"),
        (["--policy", "act", "--board", "imx95", "--fps", "0.5"], "takes 1 to 1000 Hz"),
        (["--policy", "smolvla", "--board", "imx95", "--ladder", "hope"], "no rung of the ladder"),
        (["--policy", "smolvla", "--board", "imx95", "--ladder", "steps:10"], "no fewer than"),
        (["--latency", "1", "--steps", "3"], "--steps has no meaning"),
        (["--latency", "1", "--gantt", "/nonexistent/a.png"], "/nonexistent/a.png: No such file"),
        (["--measure", "/nonexistent/a.toml"], "/nonexistent: no such directory"),
        (["--measure", "a b.toml"], "'a b' will be the board's name"),
        (["--measure", "a.toml", "--board", "imx95"], "--board has no meaning"),
    ],
)
def test_what_cannot_be_told_is_an_error_of_its_own(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == UNKNOWN
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["a.vlad", "--latency", "1"], ["--latency", "nan"], ["--latency", "1", "--threshold", "1.5"],
                  ["--latency", "-1"], ["--policy", "pi0"], ["--latency", "1", "--on", "vision"]]
)  # fmt: skip
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["plan", *arguments])
    assert exit_.value.code == UNKNOWN
    assert "usage: vlad plan" in capsys.readouterr().err


def test_chart_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png, html = tmp_path / "g.png", tmp_path / "p.html"
    arguments = ["plan", "--policy", "smolvla", "--cameras", "2", "--board", "imx95", "--dtype", "vision=int8",
                 "--on", "vision=npu", "--mode", "sync", "--gantt", str(png), "--html", str(html)]  # fmt: skip
    status = main(arguments)
    shown = capsys.readouterr().out
    assert status in (0, UNFIT)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = html.read_text()
    assert "<svg" in text
    assert "ESTIMATE" in text
    assert "derived: " in text  # the sources of the profile
    assert shown.splitlines()[0].split(":")[0] in text
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", text)


# --- measuring --------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """The probes at a size that takes no time."""
    arch = dataclasses.replace(
        measure.THIN, layers=2, cross_layers=(1,), image_side=64, pixel_shuffle=2, vision_hidden=32, vision_heads=2,
        vision_mlp=32, position_side=4,
    )  # fmt: skip
    monkeypatch.setattr(measure, "WIDE", arch)
    monkeypatch.setattr(measure, "THIN", arch)
    monkeypatch.setattr(measure, "TOKENS", 20)
    monkeypatch.setattr(measure, "STREAMED", (64, 128))
    return arch


def test_rates_are_operations_by_time(small: Architecture) -> None:
    ticks = iter(range(0, 10**12, 1_000_000))  # every run takes 1 ms
    meter = measure.Meter(1, clock=lambda: next(ticks))
    meter.round()
    meter.round()
    board = meter.board("here")
    (cpu,) = board.unit
    assert board.measured
    assert cpu.call.us == 1000
    assert board.frame.ms == 1
    found = {rate.gflop_s for rate in cpu.rate if rate.dtype == "float32"}
    n = measure.TOKENS
    expected = (vision_flops(small), prefill_flops(small, n), expert_flops(small, n), 2 * 64 * 128)
    assert found == {flops / 1e6 for flops in expected}
    assert cpu.bandwidth.gb_s == pytest.approx(4 * 64 * 128 / 1e6)
    assert all(isinstance(rate, Rate) and rate.source.startswith("measured: median of 2") for rate in cpu.rate)
    assert cpu.rate[-1].reuse == 1


@pytest.mark.usefixtures("small")
def test_measure_writes_a_profile_that_plan_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "here.toml"
    assert main(["plan", "--measure", str(out), "--threads", "1"]) == 0
    assert "a published SmolVLA" in capsys.readouterr().out
    assert load_board(str(out)).name == "here"
    assert main(["plan", "--policy", "smolvla", "--board", str(out)]) in (0, UNFIT)
    assert "ESTIMATE" not in capsys.readouterr().out
    assert main(["plan", "--measure", str(out)]) == UNKNOWN
    assert "exists already" in capsys.readouterr().err


def test_a_policy_without_a_flow_cannot_have_fewer_steps() -> None:
    with pytest.raises(Refused, match="no flow steps"):
        act(3).with_steps(2)
