"""Row 41: servos and calibration file that do not agree. A wrong calibration turns every limit and
every goal into another place, so nothing gives torque or motion before it is settled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import daemons, simulator
from tests.daemons import engage, wait_for
from tests.survival import Survival
from vlad.arm import Calibration, Joint, read_calibration
from vlad.calibration_file import CalibrationFile
from vlad.config import Config
from vlad.daemon import Daemon
from vlad.errors import ConfigError, Refused

PAN = 1
REST_POSE = """
[arm.rest_pose]
shoulder_pan = 0.0
shoulder_lift = 0.0
elbow_flex = 0.0
wrist_flex = 0.0
wrist_roll = 0.0
gripper = 0.5

"""


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[simulator.Simulator]:
    with simulator.running(tmp_path_factory.mktemp("sim"), "--width", "96", "--height", "96") as s:
        yield s


@pytest.fixture
def config(sim: simulator.Simulator, tmp_path: Path) -> Iterator[Config]:
    """The arm's calibration file is a copy that the test may change."""
    sim.command("clear_all")
    own = tmp_path / "calibration.json"

    def edit(text: str) -> str:
        (line,) = [x for x in text.splitlines() if x.startswith("calibration")]
        own.write_text(Path(line.split('"')[1]).read_text())
        return text.replace(line, f'calibration = "{own}"').replace("[servo]", REST_POSE + "[servo]", 1)

    config = daemons.config_for(sim, tmp_path, edit=edit)
    yield config
    recalibrate(sim, config)
    sim.command("clear_all")


def recalibrate(sim: simulator.Simulator, config: Config, joint: int = PAN, **other: int) -> None:
    """The servo's registers, `other` ones than the file's."""
    c = config.joints[joint - 1].calibration
    values = {"homing_offset": c.homing_offset, "range_min": c.range_min, "range_max": c.range_max}
    sim.command("recalibrate", id=joint, **{**values, **other})


def assert_nothing_moves(daemon: Daemon, sim: simulator.Simulator, *words: str) -> None:
    """engage, resume and park are refused with `words`; no torque comes on, no goal changes."""
    before = sim.command("status")
    for verb in (daemon.engage, daemon.park, daemon.resume):
        with pytest.raises(Refused) as refused:
            verb()
        if verb == daemon.engage:
            for word in words:
                assert word in str(refused.value)
    after = sim.command("status")
    assert after["torque"] == before["torque"]
    assert after["goals"] == before["goals"]
    wait_for(lambda: "calibration_changed" in [f["name"] for f in daemon.status()["faults"]], 5)
    assert any(words[0] in why for why in daemon.status()["why_not_engageable"])


@pytest.mark.fault(41)
@pytest.mark.parametrize(("register", "words"), [
    ("homing_offset", "homing offset"), ("range_min", "range_min"), ("range_max", "range_max"),
])
def test_f41_another_register_at_the_start(
    sim: simulator.Simulator, config: Config, register: str, words: str, survival: Survival
) -> None:
    wanted = getattr(config.joints[PAN - 1].calibration, register)
    recalibrate(sim, config, **{register: wanted + 40})
    sim.command("cut_supply")  # torque off, whatever an earlier test left
    sim.command("restore_supply")
    with daemons.running(config) as daemon:
        wait_for(lambda: daemon.status()["arm"]["bus"], 10)
        assert_nothing_moves(
            daemon, sim,
            f"shoulder_pan (id 1): {words} is {wanted + 40} in the servo, {wanted} in the file",
        )
        assert not any(sim.command("status")["torque"].values())
    survival(41, note=f"another {words} in a servo at start: no torque, engage and park refused")


@pytest.mark.fault(41)
@pytest.mark.parametrize("how", ["power cut", "swapped"])
def test_f41_servos_that_come_back_otherwise(
    sim: simulator.Simulator, config: Config, how: str, survival: Survival
) -> None:
    wanted = config.joints[PAN - 1].calibration.homing_offset
    with daemons.running(config) as daemon:
        engage(daemon)
        sim.command(*(("cut_supply",) if how == "power cut" else ("silence",)),
                    **({} if how == "power cut" else {"id": PAN}))
        wait_for(lambda: daemon.status()["mode"] == "faulted", 10)
        recalibrate(sim, config, homing_offset=wanted + 512)
        sim.command(*(("restore_supply",) if how == "power cut" else ("restore",)),
                    **({} if how == "power cut" else {"id": PAN}))
        wait_for(lambda: daemon.status()["bus"]["reopened"] and daemon.status()["arm"]["bus"], 20)
        wait_for(lambda: not any(f["latched"] and f["active"] for f in daemon.status()["faults"]), 10)
        daemon.clear()
        assert_nothing_moves(daemon, sim, f"homing offset is {wanted + 512} in the servo, {wanted}")

        # Put right, and read again: only then does the arm move.
        recalibrate(sim, config)
        sim.command("unplug")
        wait_for(lambda: daemon.status()["mode"] == "faulted", 10)
        sim.command("replug")
        wait_for(lambda: daemon.status()["arm"]["bus"], 20)
        wait_for(lambda: not any(f["active"] for f in daemon.status()["faults"]), 10)
        daemon.clear()
        engage(daemon)
    survival(41, note=f"{how} while engaged, another homing offset after it: refused until put right")


def change(path: Path, **other: Any) -> None:
    table = json.loads(path.read_text())
    table["shoulder_pan"] |= other
    path.write_text(json.dumps(table))


@pytest.mark.fault(41)
def test_f41_the_file_changes_under_a_running_daemon(
    sim: simulator.Simulator, config: Config, survival: Survival
) -> None:
    path = Path(config.arm.calibration)
    good = path.read_text()
    offset = config.joints[PAN - 1].calibration.homing_offset
    with daemons.running(config) as daemon:
        engage(daemon)
        change(path, homing_offset=offset + 1)
        wait_for(lambda: "calibration_changed" in
                 [f["name"] for f in daemon.status()["faults"]], 10)
        assert daemon.status()["mode"] == "engaged", "what it moves on was read at the start"
        daemon.hold()
        wait_for(lambda: daemon.status()["mode"] == "holding", 5)
        with pytest.raises(Refused, match=rf"shoulder_pan: homing_offset is {offset + 1} in the "
                                          rf"file, {offset} in use; restore the file, or restart"):
            daemon.resume()
        path.write_text(good)
        wait_for(lambda: not daemon.status()["why_not_engageable"], 10)
        engage(daemon)
    survival(41, note="calibration file edited while engaged: goes on, the next engage is refused")


def motors(joints: tuple[Joint, ...]) -> dict[str, Calibration]:
    return {j.name: j.calibration for j in joints}


@pytest.mark.fault(41)
@pytest.mark.parametrize(("spoil", "words"), [
    (lambda p: p.unlink(), "No such file"),
    (lambda p: (p.unlink(), p.mkdir()), "Is a directory"),
    (lambda p: p.write_bytes(p.read_bytes()[:100]), "not a JSON object"),
    (lambda p: p.write_bytes(b"x" * 70_000), "over 65536 bytes"),
    (lambda p: change(p, range_max=1), "range_min"),
    (lambda p: change(p, drive_mode=1), "drive_mode is 1 in the file, 0 in use"),
    (lambda p: change(p, id=9), "id is 9 in the file, 1 in use"),
    (lambda p: p.write_text(p.read_text().replace("shoulder_pan", "pan")),
     "shoulder_pan is missing; pan is new"),
])  # fmt: skip
def test_f41_a_file_that_is_gone_or_says_otherwise(
    config: Config, spoil: Callable[[Path], Any], words: str, survival: Survival
) -> None:
    path = Path(config.arm.calibration)
    assert motors(config.joints) == read_calibration(path)
    watch = CalibrationFile(str(path), config.joints)
    watch.poll(0)
    assert watch.problem == ""
    good = path.read_bytes()
    spoil(path)
    watch.poll(0)
    assert words in watch.problem and str(path) in watch.problem
    if path.is_dir():
        path.rmdir()
    path.write_bytes(good)
    watch.poll(0)
    assert watch.problem == ""
    survival(41, note="file gone, unreadable, cut, too long, of other motors: named and refused")


@pytest.mark.fault(41)
def test_f41_no_start_without_the_file(
    sim: simulator.Simulator, config: Config, tmp_path: Path
) -> None:
    Path(config.arm.calibration).unlink()
    from vlad import config as configuration

    with pytest.raises(ConfigError, match=r"arm\.calibration.*No such file"):
        configuration.load(config.path)
