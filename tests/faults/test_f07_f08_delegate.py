"""Rows 7 and 8 with the shipped policy's vision behind a delegate, whose accelerator fails while the arm is engaged.

What the worker's own misbehaviour does is in test_f07_f08_worker.py; here the fault is in a shared library that a
real LiteRT has loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import daemons, simulator, tiny_litert
from tests.daemons import wait_for
from tests.faults.test_f07_f08_worker import BOUND_MS, SWEEP, TIME_LIMIT_MS, Rig, patient
from tests.survival import Survival
from vlad.build.command import main as build
from vlad.daemon import Daemon
from vlad.litert import BORDER, ON_CPU
from vlad.tflite.command import main as tflite
from vlad.wire_witness import judge


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    data, source, made = SWEEP / "dataset", root / "float32.vlad", root / "sweep.vlad"
    words = [SWEEP / "checkpoint", "--dataset", data, "--units", "degrees", "-o", source, "--json"]
    assert build([str(word) for word in words]) == 0
    words = [source, "--calibrate", data, "-o", made, "--observations", "4", "--json"]
    assert tflite([str(word) for word in words]) == 0
    return made


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[simulator.Simulator]:
    with simulator.running(tmp_path_factory.mktemp("sim"), "--width", "96", "--height", "96") as s:
        yield s


@pytest.fixture
def rig(sim: simulator.Simulator, bundle: Path, tmp_path: Path) -> Iterator[Rig]:
    sim.command("clear_all")
    orders = tmp_path / "orders"
    extra = (
        "\n[policy]\nthreshold = 0.9\n"
        f'\n[block.vision]\ndelegate = "{tiny_litert.delegate()}"\nallow_cpu_fallback = true\n'
        f'timeout_ms = {TIME_LIMIT_MS}\n[block.vision.delegate_options]\norders = "{orders}"\n'
        + "".join(f"\n[stage.{name}]\nbound_ms = {BOUND_MS}\n" for name in ("vision", "expert"))
    )
    config = daemons.config_for(sim, tmp_path, extra=extra, edit=patient)
    daemon = Daemon(config)
    with daemons.supervised(daemon):
        daemon.load(str(bundle))
        loaded = daemon.inference.loaded  # this machine renders three cameras in software beside everything else
        assert loaded is not None
        daemon.inference.loaded = dataclasses.replace(loaded, max_frame_age_ns=500_000_000)
        daemon.servo.policy_timing(loaded.scheduler.period_ns, loaded.scheduler.horizon_ns, 500_000_000)
        yield Rig(daemon, orders, sim)
    assert daemon.exit_status == 0
    report = daemon.servo.report()["counters"]
    assert report["wire_limit"] == report["wire_step"] == 0
    assert list(judge(sim.record, config.joints, config.period_ns / 1e9).violations) == []


def test_status_says_what_runs_where(rig: Rig) -> None:
    status = rig.status()
    assert list(status["workers"]) == ["vision"], "an accelerated block is in a worker by default, the others are not"
    found = status["blocks"]["vision"]
    assert set(found) == {str(tiny_litert.delegate()), BORDER, ON_CPU}
    assert found[str(tiny_litert.delegate())]["nodes"] == 25
    assert status["blocks"]["expert"] == {"CPUExecutionProvider": {"nodes": None, "partitions": 1}}


@pytest.mark.fault(8)
def test_f08_a_crash_of_the_accelerator_holds_and_the_arm_goes_on_when_told(rig: Rig, survival: Survival) -> None:
    rig.engage()
    tiny_litert.order(rig.orders, "crash")
    wait_for(lambda: not rig.orders.exists(), 60, "the order is taken")
    rig.held()
    wait_for(lambda: len(rig.events()) == 2, 60, "lost and up")
    assert [(e["block"], e["change"], e["kind"]) for e in rig.events()] == [
        ("vision", "lost", "crash"), ("vision", "up", "crash")]  # fmt: skip
    assert "inference_failed" in rig.faults()
    rig.cleared()
    rig.engage()
    survival(8, clock="machine", note="SIGSEGV in a LiteRT delegate: held, restarted, engaged again")


@pytest.mark.fault(7)
def test_f07_a_hang_of_the_accelerator_holds_at_the_bound(rig: Rig, survival: Survival) -> None:
    rig.engage()
    tiny_litert.order(rig.orders, "hang")
    wait_for(lambda: "inference_hung" in rig.faults(), 60)
    rig.held()
    wait_for(lambda: len(rig.events()) == 2, 60, "lost and up")
    assert [(e["block"], e["change"], e["kind"]) for e in rig.events()] == [
        ("vision", "lost", "hang"), ("vision", "up", "hang")]  # fmt: skip
    rig.cleared()
    rig.engage()
    survival(7, clock="machine", note="a LiteRT delegate that does not return: held, its worker replaced")


@pytest.mark.fault(8)
def test_f08_an_error_of_the_accelerator_is_tried_again_while_the_queue_lasts(rig: Rig) -> None:
    rig.engage()
    failed = rig.status()["policy"]["failed"]
    tiny_litert.order(rig.orders, "error")
    wait_for(lambda: rig.status()["policy"]["failed"] == failed + 1, 30)
    rig.engage()
    assert rig.events() == [], "no worker is lost by an error of its block"
    assert "inference_failed" not in {e["name"] for e in rig.events("fault")}, "it went on"
