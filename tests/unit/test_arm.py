"""Joints, LeRobot's calibration file, and the stop time against the C core's own formula."""

from __future__ import annotations

import ctypes
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vlad import arm
from vlad.arm import Calibration, Joint, read_calibration, stop_time
from vlad.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAN = {"id": 1, "drive_mode": 0, "homing_offset": -1470, "range_min": 758, "range_max": 3292}


def joint(v: float = 2.5, a: float = 40.0, j: float = 1600.0, kind: arm.Kind = "body") -> Joint:
    return Joint("pan", 1, kind, Calibration(**PAN), -1.0, 1.0, v, a, j)


def write(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "calibration.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reads_what_lerobot_writes(tmp_path: Path) -> None:
    motors = read_calibration(write(tmp_path, {"shoulder_pan": PAN}))
    assert motors == {"shoulder_pan": Calibration(1, 0, -1470, 758, 3292)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, ["shoulder_pan", "`null`", "id"]),
        ({"id": 254}, ["shoulder_pan", "253"]),
        ({"drive_mode": 2}, ["shoulder_pan", "drive_mode"]),
        ({"drive_mode": True}, ["shoulder_pan", "bool"]),
        ({"homing_offset": -2048}, ["shoulder_pan", "homing_offset"]),
        ({"range_min": -1}, ["shoulder_pan", "range_min"]),
        ({"range_max": 4096}, ["shoulder_pan", "range_max"]),
        ({"range_max": 3292.5}, ["shoulder_pan", "range_max"]),
        ({"range_min": 3292}, ["shoulder_pan", "range_min 3292 >= range_max 3292"]),
        ({"range_min": 4000, "range_max": 100}, ["shoulder_pan", "calibrate the arm again"]),
        ({"zero": 1}, ["shoulder_pan", "unknown field `zero`"]),
    ],
)
def test_bad_entry_names_motor_and_key(
    tmp_path: Path, change: dict[str, object], words: list[str]
) -> None:
    path = write(tmp_path, {"shoulder_pan": PAN | change})
    with pytest.raises(ConfigError) as caught:
        read_calibration(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not a JSON object"),
        ("[]", "not a JSON object of motors"),
        ("{}", "not a JSON object of motors"),
        ("nan", "not a JSON object"),
        ('{"a": 1}', "a: Expected `object`"),
        ('{"a": {"id": 1}}', "drive_mode"),
        ("[" * 100000, "over 65536 bytes"),
        ("[" * 60000, "not a JSON object"),
        ('{"a": {"id": 1, "id": 2}}', "occurs twice"),
        (json.dumps({"a": PAN, "b": PAN}), "b.id: 1 is also the id of a"),
    ],
)
def test_bad_file(tmp_path: Path, content: str, word: str) -> None:
    with pytest.raises(ConfigError, match=r"calibration\.json") as caught:
        read_calibration(write(tmp_path, content))
    assert word in str(caught.value)


def test_motors_must_be_the_configured_ones() -> None:
    motors = {"a": Calibration(**PAN), "b": Calibration(**PAN)}
    arm.check_motors("c.json", ["b", "a"], motors)
    with pytest.raises(ConfigError, match=r"c\.json: has no motor \['c'\]; it has \['a', 'b'\]"):
        arm.check_motors("c.json", ["a", "c"], motors)
    with pytest.raises(ConfigError, match=r"has motors \['b'\] that are no joints"):
        arm.check_motors("c.json", ["a"], motors)


def test_ticks_and_units() -> None:
    body, gripper = joint(), joint(kind="gripper")
    low, high = arm.span("body", body.calibration)
    assert [body.to_ticks(p) for p in (low, 0.0, high)] == [758, 2025, 3292]
    assert high == pytest.approx(math.radians(2534 / 2 * 360 / 4096))
    assert arm.span("gripper", gripper.calibration) == (0.0, 1.0)
    assert [gripper.to_ticks(p) for p in (0.0, 0.5, 1.0)] == [758, 2025, 3292]
    assert body.unit_nu == 1_533_980
    assert gripper.unit_nu == 10**9 // 2534
    assert gripper.gripper and not body.gripper


def test_stop_time_by_hand() -> None:
    """2 v/a = 125 ms -> 13 ticks of 10 ms, 2 a/j = 50 ms -> 5 ticks; 13 + 5 - 1 periods."""
    assert stop_time([joint()], 10_000_000) == arm.Stop(170_000_000)
    assert stop_time([joint(), joint(v=1.0)], 10_000_000).stop_ns == 170_000_000
    bad = stop_time([joint(), joint(a=10.0, j=400.0)], 10_000_000)
    assert bad.joint == 1 and "at most 300 ms" in bad.problem
    slow = stop_time([joint(v=0.1)], 10_000_000)
    assert slow.joint == 0 and "one encoder tick" in slow.problem


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("core") / "trajectory.so"
    sources = [str(ROOT / "csrc" / name) for name in ("trajectory.c", "gate.c")]
    flags = ["-std=c11", "-O1", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}"]
    subprocess.run([compiler, *flags, *sources, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


class _JointLimits(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("min", "max", "v", "a", "j")]


class _Limits(ctypes.Structure):
    _fields_ = [("n_joints", ctypes.c_int), ("joint", _JointLimits * 8)]


@pytest.mark.parametrize("rate_hz", [20, 50, 100, 333, 1000])
@pytest.mark.parametrize("v", [0.05, 0.16, 0.5, 2.5, 6.0])
@pytest.mark.parametrize(("a", "j"), [(5.0, 100.0), (20.0, 400.0), (33.0, 1111.0), (400.0, 9e4)])
def test_stop_time_agrees_with_the_core(
    core: ctypes.CDLL, rate_hz: int, v: float, a: float, j: float
) -> None:
    period_ns = 1_000_000_000 // rate_hz
    joints = [joint(v=0.5), joint(v, a, j)]
    limits = _Limits(n_joints=2)
    for i, each in enumerate(joints):
        values = [round(x * 1e9) for x in (each.min, each.max, each.v_max, each.a_max, each.j_max)]
        limits.joint[i] = _JointLimits(*values)
    units = (ctypes.c_int64 * 8)(*[each.unit_nu for each in joints])
    offender = ctypes.c_int()
    filter_state: Any = ctypes.create_string_buffer(1 << 20)
    period = ctypes.c_int64(period_ns)
    rc = core.vlad_trajectory_init(
        filter_state, ctypes.byref(limits), units, period, ctypes.byref(offender)
    )
    stop = stop_time(joints, period_ns)
    assert (rc == 0) == (stop.problem == "")
    assert offender.value == stop.joint
    if rc == 0:
        core.vlad_trajectory_stop_ns.restype = ctypes.c_int64
        assert core.vlad_trajectory_stop_ns(filter_state, period) == stop.stop_ns
