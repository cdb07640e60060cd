"""The flight record in simulated time: what is in a file, when one is written, what stops it."""

from __future__ import annotations

import base64
import errno
import json
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from mcap.reader import make_reader

from tests.conftest import sweep, sweep_policy
from tests.unit import mcap_witness
from vlad import flight as flights
from vlad import flight_command, flight_directory, flight_memory
from vlad._native.flight import NOTE
from vlad.camera import Frame
from vlad.config_keys import FlightKeys
from vlad.errors import Refused
from vlad.flight import FlightRecorder
from vlad.flight_fields import FlightError, Record
from vlad.flight_file import About, about_servo, read, write
from vlad.flight_memory import FlightMemory, Sizes, recover
from vlad.flight_schemas import SCHEMA_OF, SCHEMAS
from vlad.replay import replay
from vlad.scheduler import SchedulerConfig
from vlad.servo import MS, Servo, ServoConfig
from vlad.simulation import Simulation

JOINTS = ("a", "b", "c", "d", "e", "gripper")
S = 1_000_000_000
IMAGE = np.full((240, 320, 3), (200, 60, 20), np.uint8)


@dataclass
class Flown:
    """A simulated run with a record attached; the recorder's thread is not started unless a test does."""

    simulation: Simulation
    recorder: FlightRecorder
    directory: Path
    figures: dict[str, Any] = field(default_factory=dict)

    def event(self, **event: Any) -> None:
        self.recorder.event({"t_ns": self.simulation.now_ns, **event})

    def fault(self, number: int = 19, *, active: bool = True, reaction: str = "hold") -> None:
        self.event(event="fault", id=number, name="servo_silent", reaction=reaction if active else "none",
                   active=active, latched=False)

    def serve(self) -> list[str]:
        self.recorder._serve(self.simulation.now_ns)
        return sorted(p.name for p in self.directory.glob("*"))

    def status(self) -> dict[str, Any]:
        return self.recorder.status()


@pytest.fixture
def fly(servo_config: ServoConfig, scheduler_config: SchedulerConfig, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Flown]]:
    made: list[FlightRecorder] = []

    def build(*, memory: Path | None = None, **keys: Any) -> Flown:
        directory = tmp_path / "flight"
        config = FlightKeys(directory=str(keys.pop("directory", directory)), **keys)
        about = About(version="9", board="bench", joints=JOINTS, servo=about_servo(servo_config),
                      config="# text")
        holder: dict[str, FlightRecorder] = {}

        class Recorded(Servo):  # the simulation makes its own loop: this is where a record comes in
            def __init__(self, servo: ServoConfig, now_ns: int | None = None) -> None:
                super().__init__(servo, now_ns)
                holder["recorder"] = FlightRecorder(
                    config, self, about, memory=memory, period_ns=servo_config.period_ns,
                    frames=lambda: {"top": Frame(7, flown.simulation.now_ns, IMAGE), "side": None},
                    figures=lambda: {"mode": "engaged", **flown.figures})

        monkeypatch.setattr("vlad.simulation.Servo", Recorded)
        start = tuple(float(v) for v in sweep(1_000_000 * MS)[0])
        simulation = Simulation(servo_config, scheduler_config, sweep_policy, lambda request: 200 * MS,
                                pose=start)
        flown = Flown(simulation, holder["recorder"], Path(config.directory))
        made.append(flown.recorder)
        monkeypatch.setattr(flights, "now_ns", lambda: flown.simulation.now_ns)
        assert simulation.engage() == "engaged"
        return flown

    yield build
    for recorder in made:
        recorder.stop()


def go(flown: Flown, seconds: float) -> None:
    """Runs, sampling as the thread would."""
    end = flown.simulation.now_ns + int(seconds * S)
    while flown.simulation.now_ns < end:
        flown.simulation.run(min(end, flown.simulation.now_ns + S // 10))
        if flown.recorder.enabled:
            flown.recorder._sample(flown.simulation.now_ns)


def written(flown: Flown) -> Path:
    path, error = flown.recorder._write("test")
    assert path is not None, error
    return path


# --- what is in it --------------------------------------------------------------------------------


def test_two_readers_that_are_not_ours_read_it_and_every_message_fits_its_schema(fly: Any) -> None:
    flown = fly()
    go(flown, 3)
    flown.fault()
    path = written(flown)
    contents = mcap_witness.look(path.read_bytes())
    counts: dict[str, int] = {}
    schema_of = {topic: contents.schemas[schema] for topic, _, schema in contents.channels.values()}
    for topic, number, _, data in contents.messages:
        counts[topic] = counts.get(topic, 0) + 1
        assert number == counts[topic]
        mcap_witness.conforms(json.loads(data), json.loads(schema_of[topic][2]), topic)
    assert {*SCHEMA_OF, "/camera/top"} - {"/vlad/timing"} == set(counts)
    assert all(encoding == "json" for _, encoding, _ in contents.channels.values())
    assert contents.attachments == {"config.toml": b"# text"}
    assert "CLOCK_MONOTONIC" in contents.metadata["vlad"]["clock"]
    times = [m[2] for m in contents.messages]
    assert times == sorted(times)
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        theirs = {summary.channels[c].topic: n for c, n in summary.statistics.channel_message_counts.items()}
        assert theirs == counts
        assert sum(1 for _ in reader.iter_messages()) == len(contents.messages)


def test_foxglove_finds_its_schemas_and_a_picture_in_them(fly: Any) -> None:
    flown = fly()
    go(flown, 1)
    contents = mcap_witness.look(written(flown).read_bytes())
    names = {topic: contents.schemas[s][0] for topic, _, s in contents.channels.values()}
    assert names["/camera/top"] == "foxglove.CompressedImage"
    assert names["/joints/present"] == names["/joints/goal"] == "foxglove.JointStates"
    message = next(json.loads(d) for t, _, _, d in contents.messages if t == "/camera/top")
    image = simplejpeg.decode_jpeg(base64.b64decode(message["data"]))
    assert image.shape == (120, 160, 3)
    assert np.abs(image.astype(int) - IMAGE[0, 0]).max() < 12
    joints = next(json.loads(d) for t, _, _, d in contents.messages if t == "/joints/present")
    assert [j["name"] for j in joints["joints"]] == list(JOINTS)


def test_a_chunk_that_is_not_finite_stays_json_and_is_replayed(fly: Any) -> None:
    flown = fly()
    go(flown, 1)
    chunk = sweep_policy(flown.simulation.now_ns, np.zeros(6))
    chunk[3, 2], chunk[4, 0], chunk[5, 0] = np.nan, np.inf, -np.inf
    view = flown.simulation.servo.queue_view()
    report = flown.simulation.servo.push(chunk, seq=99, epoch=view[2], t_obs_ns=flown.simulation.now_ns,
                                         now_ns=flown.simulation.now_ns)
    assert report["reason"] == "not_finite"
    go(flown, 0.5)
    flight = read(written(flown))
    row = next(c for c in flight.rows[3] if c["seq"] == 99)
    assert [row["actions"][i][j] for i, j in ((3, 2), (4, 0), (5, 0))] == ["nan", "inf", "-inf"]
    outcome = replay(flight)
    assert outcome.difference is None and outcome.chunks > 1


def test_only_the_newest_seconds_are_kept_and_a_replay_begins_there(fly: Any) -> None:
    flown = fly(seconds=15)
    go(flown, 40)
    path = written(flown)
    flight = read(path)
    ticks = flight.rows[1]
    assert 1400 <= len(ticks) <= 1502
    assert ticks[-1]["now_ns"] - ticks[0]["now_ns"] <= 15 * S
    outcome = replay(flight)
    assert outcome.difference is None and outcome.skipped_ticks <= 201
    assert outcome.ticks + outcome.skipped_ticks == len(ticks)
    assert flown.status()["refused"] == 0 and flown.status()["fill"]["loop"] < 1


# --- when a file is written -----------------------------------------------------------------------


def test_one_file_an_episode_two_seconds_after_the_fault(fly: Any) -> None:
    flown = fly()
    go(flown, 1)
    flown.fault(19)
    flown.fault(20)
    assert flown.serve() == []
    go(flown, 1.9)
    assert flown.serve() == []
    go(flown, 0.2)
    assert flown.serve() == ["flight-000001-servo_silent.mcap"]
    assert read(flown.directory / "flight-000001-servo_silent.mcap").last_ns > flown.simulation.now_ns - S // 4
    flown.fault(19)
    go(flown, 20)
    assert len(flown.serve()) == 1, "the same episode"
    assert flown.status()["same_episode"] == 1
    flown.fault(19, active=False)
    flown.fault(20, active=False)
    flown.fault(19)
    go(flown, 2.1)
    assert len(flown.serve()) == 2, "another one"


def test_files_that_faults_ask_for_are_apart_and_none_is_lost(fly: Any) -> None:
    flown = fly()
    for _ in range(3):
        flown.fault(active=True)
        flown.fault(active=False)
    assert flown.status()["postponed"] == 2
    files = []
    for _ in range(30):
        go(flown, 1)
        files.append(len(flown.serve()))
    assert files[2] == 1 and files[8] == 1 and files[12] == 2 and files[-1] == 3


def test_an_episode_ends_also_where_its_last_event_was_lost(fly: Any) -> None:
    flown = fly()
    flown.figures["reaction"] = "hold"
    flown.fault(19)
    go(flown, 2.1)
    assert len(flown.serve()) == 1
    flown.fault(20)
    go(flown, 9)
    assert len(flown.serve()) == 1, "the same episode"
    flown.figures["reaction"] = "none"
    go(flown, 1)
    flown.fault(20)
    go(flown, 2.1)
    assert len(flown.serve()) == 2


def test_faults_that_do_not_hold_the_arm_ask_for_nothing(fly: Any) -> None:
    flown = fly()
    flown.fault(reaction="warn")
    flown.fault(reaction="slow")
    go(flown, 3)
    assert flown.serve() == []


def test_stopping_writes_what_is_still_wanted(fly: Any) -> None:
    flown = fly()
    flown.recorder.start()
    flown.fault()
    flown.recorder.stop()
    assert len(list(flown.directory.glob("*.mcap"))) == 1


def test_on_demand_and_switched_off(fly: Any) -> None:
    flown = fly()
    flown.recorder.start()
    go(flown, 1)
    path = flown.recorder.dump("asked for", 30)
    assert path.name == "flight-000001-asked_for.mcap" and path.stat().st_mode & 0o777 == 0o600
    off = fly(enabled=False)
    go(off, 1)
    off.recorder.start()
    with pytest.raises(Refused, match="enabled is off"):
        off.recorder.dump("asked for")
    assert off.status() == {"enabled": False}


# --- the disk -------------------------------------------------------------------------------------


@pytest.mark.fault(34)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_f34_a_disk_that_takes_nothing_is_counted_and_leaves_nothing(
    fly: Any, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    flown = fly()
    go(flown, 1)

    def refuse(descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", refuse)
    flown.recorder.start()
    with pytest.raises(Refused, match=os.strerror(error)):
        flown.recorder.dump("asked for", 30)
    assert list(flown.directory.iterdir()) == []
    assert flown.status()["failed"] == 1 and os.strerror(error) in flown.status()["error"]
    monkeypatch.undo()
    flown.recorder.dump("asked for", 30)
    assert flown.status()["written"] == 1 and flown.status()["error"] == ""


@pytest.mark.fault(34)
def test_f34_a_disk_that_hangs_stops_no_tick_and_no_event(fly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flown = fly()
    go(flown, 1)
    hang = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: hang.wait(60))
    flown.recorder.start()
    with pytest.raises(Refused, match="slow disk"):
        flown.recorder.dump("asked for", 0.2)
    before = flown.simulation.servo.report()["counters"]["ticks"]
    flown.fault()
    go(flown, 2)
    assert flown.simulation.servo.report()["counters"]["ticks"] == before + 200
    with pytest.raises(Refused, match="already"):
        flown.recorder.dump("asked for", 0.2)
    hang.set()


@pytest.mark.fault(34)
def test_f34_no_directory(fly: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    flown = fly(directory=tmp_path / "file/flight")
    flown.recorder.start()
    with pytest.raises(Refused, match="Not a directory"):
        flown.recorder.dump("asked for", 30)


def test_the_directory_is_bounded_and_only_ours_give_way(fly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flown = fly(max_files=3)
    go(flown, 1)
    (flown.directory / "notes.txt").write_text("mine")
    if (child := os.fork()) == 0:  # a process that dies while it writes
        monkeypatch.setattr(os, "fsync", lambda descriptor: os._exit(9))
        with suppress(BaseException):
            flown.recorder._directory.write("x", flown.recorder._about, [])
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(flown.directory.glob("flight-*"))) == 1
    names = [written(flown).name for _ in range(5)]
    assert names == [f"flight-{n:06d}-test.mcap" for n in range(2, 7)]
    assert sorted(p.name for p in flown.directory.iterdir()) == [*names[-3:], "notes.txt"]
    assert flown.status()["removed"] == 2
    directory = flight_directory.FlightDirectory(flown.directory, 3, 1)  # a byte: the newest stays
    directory._remove_down_to(3)
    assert sorted(p.name for p in flown.directory.iterdir()) == [names[-1], "notes.txt"]


def test_two_daemons_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writes after the other: no part file of a living process goes, and no name is taken twice."""
    about = About(version="", board="", joints=(), servo={})
    one, other = (flight_directory.FlightDirectory(tmp_path, 9, 1 << 20) for _ in range(2))
    writing, go_on = threading.Event(), threading.Event()
    real = flight_directory.write

    def slow(path: Path, about: About, records: Any) -> int:
        path.with_name(f"{path.name}.part").write_bytes(b"half")
        writing.set()
        assert go_on.wait(30)
        return real(path, about, records)

    with monkeypatch.context() as patch:
        patch.setattr(flight_directory, "write", slow)
        first = threading.Thread(target=lambda: one.write("x", about, []))
        first.start()
        assert writing.wait(30)
    monkeypatch.setattr(flight_directory, "WAIT_S", 0.1)
    with pytest.raises(OSError, match="another process writes there"):
        other.write("x", about, [])
    assert [p.name for p in tmp_path.iterdir()] == ["flight-000001-x.mcap.part"]
    go_on.set()
    first.join(30)
    assert other.write("x", about, []).name == "flight-000002-x.mcap"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flight-000001-x.mcap", "flight-000002-x.mcap"]


# --- a crash --------------------------------------------------------------------------------------


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory in memory."""
    if flight_memory.file_system(Path("/dev/shm")) not in flight_memory.MEMORY_FILE_SYSTEMS:
        pytest.skip("no tmpfs at /dev/shm")
    path = Path(f"/dev/shm/vlad-test-{os.getpid()}-{random.randrange(10**9)}")
    path.mkdir(mode=0o700)
    yield path
    for left in path.iterdir():
        left.unlink()
    path.rmdir()


@pytest.mark.fault(28)
def test_f28_what_a_killed_process_leaves_is_read_by_the_next(
    fly: Any, in_memory: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flown = fly(memory=in_memory / "ring")
    assert flown.status()["survives_crash"]
    go(flown, 3)
    image = (in_memory / "ring").read_bytes()  # as a process that is killed here leaves it
    assert recover(in_memory / "ring") is None, "its daemon lives"
    (in_memory / "left").write_bytes(image)
    assert flight_command.main(["recover", str(in_memory / "left"), "-o", str(tmp_path / "c.mcap")]) == 0
    flight = read(tmp_path / "c.mcap")
    assert flight.about.reason == "crash" and len(flight.rows[1]) > 290
    assert replay(flight).difference is None
    flown.recorder.stop()
    assert list(in_memory.iterdir()) == [in_memory / "left"], "an orderly end leaves nothing"
    (in_memory / "left").rename(in_memory / "ring")
    after = fly(memory=in_memory / "ring")
    after.recorder.start()
    after.recorder.stop()
    assert [p.name for p in after.directory.iterdir()] == ["flight-000001-crash.mcap"]
    assert after.status()["recovered"] == 1 and list(in_memory.iterdir()) == []


@pytest.mark.fault(28)
@pytest.mark.parametrize("spoil", ["another version", "damaged", "unreadable about"])
def test_f28_what_cannot_be_read_is_kept_as_it_is(
    fly: Any, in_memory: Path, tmp_path: Path, spoil: str
) -> None:
    """After an upgrade that followed a crash, say."""
    left = in_memory / "ring"
    flown = fly(memory=left)
    go(flown, 1)
    image = bytearray(left.read_bytes())
    flown.recorder.stop()
    at = {"another version": 8, "damaged": 16, "unreadable about": flight_memory.ABOUT_AT}[spoil]
    image[at] ^= 0xFF
    left.write_bytes(image)
    after = fly(memory=left)
    after.recorder.start()
    assert after.status()["survives_crash"]
    after.recorder.stop()
    kept = after.directory / "flight-000001-crash.ring"
    assert list(after.directory.iterdir()) == [kept] and kept.read_bytes() == image
    assert kept.stat().st_mode & 0o777 == 0o600
    assert after.status()["kept"] == 1 and after.status()["recovered"] == 0
    assert list(in_memory.iterdir()) == []
    left.write_bytes(b"x" * len(image))  # no memory of a record: nobody misses it
    last = fly(memory=left)
    last.recorder.start()
    last.recorder.stop()
    assert list(last.directory.iterdir()) == [kept] and last.status()["kept"] == 0


@pytest.mark.fault(28)
def test_f28_a_second_crash_before_the_first_was_written_is_counted(
    fly: Any, in_memory: Path, tmp_path: Path
) -> None:
    left = in_memory / "ring"
    flown = fly(memory=left)
    go(flown, 1)
    image = left.read_bytes()
    flown.recorder.stop()
    left.write_bytes(image)
    (in_memory / "ring.crashed").write_bytes(b"older")
    after = fly(memory=left)
    assert after.status()["replaced"] == 1 and (in_memory / "ring.crashed").read_bytes() == image
    after.recorder.start()
    after.recorder.stop()
    assert after.status()["recovered"] == 1


@pytest.mark.fault(26)
def test_f26_no_record_ends_its_thread_however_it_fails(
    fly: Any, in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The death of the thread would stop the daemon: at each of its starts, for what a crash has left."""
    flown = fly(memory=in_memory / "ring")
    assert flown.recorder._memory.notes.add(NOTE, flown.simulation.now_ns, b"{}")
    go(flown, 1)
    image = (in_memory / "ring").read_bytes()
    flown.recorder.stop()
    (in_memory / "ring").write_bytes(image)
    after = fly(memory=in_memory / "ring")
    after.recorder.start()

    def no_room(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(flight_directory, "write", no_room)
        with pytest.raises(Refused, match="MemoryError"):
            after.recorder.dump("asked for", 30)
    assert after.recorder._thread.is_alive()
    assert after.recorder.dump("asked for", 30).exists()
    assert after.status()["failed"] == 2 and "asked for" not in after.status()["error"]


def test_memory_that_cannot_be_had_says_so_and_records_all_the_same(fly: Any, in_memory: Path, tmp_path: Path) -> None:
    for path, why in ((tmp_path / "disk", "tmpfs"), (in_memory / "no/ring", "No such file"),
                      (in_memory / "link", "symbolic")):
        if path.name == "link":
            path.symlink_to(in_memory / "elsewhere")
        memory = FlightMemory(path, Sizes(1 << 20), About(version="", board="", joints=(), servo={}))
        assert not memory.survives and (why in memory.problem or "Too many levels" in memory.problem)
        assert memory.loop.add(1, 5, b"12345678") and len(list(memory.records())) == 1
    first = FlightMemory(in_memory / "ring", Sizes(1 << 20), About(version="", board="", joints=(), servo={}))
    second = FlightMemory(in_memory / "ring", Sizes(1 << 20), About(version="", board="", joints=(), servo={}))
    assert first.survives and "another daemon" in second.problem
    first.close()


def test_any_bytes_may_lie_where_the_memory_was(tmp_path: Path) -> None:
    memory = FlightMemory(None, Sizes(1 << 16, 1 << 16, 1 << 16), About(version="", board="", joints=(), servo={}))
    for k in range(2000):
        memory.notes.add(5, k, b"x" * (k % 200))
    good = bytes(memory.map)
    path, rng = tmp_path / "left", random.Random(5)
    path.write_bytes(good)
    assert recover(path) is not None
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(3):
            at = rng.choice((rng.randrange(48), rng.randrange(flight_memory.RINGS_AT, len(good)),
                             flight_memory.RINGS_AT + (1 << 17) + rng.randrange(48)))
            data[at] = rng.randrange(256)
        path.write_bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data))))])
        try:
            found = recover(path)
        except FlightError as error:
            refused += str(path) in str(error)
            continue
        assert found is not None and all(isinstance(r, Record) for r in found[1])
    assert refused > 50
    assert recover(tmp_path / "none") is None
    with pytest.raises(FlightError, match="no regular file"):
        recover(tmp_path)


# --- files that are none --------------------------------------------------------------------------


def test_damaged_files_are_refused_in_words(fly: Any, tmp_path: Path) -> None:
    flown = fly()
    go(flown, 1)
    good = written(flown).read_bytes()
    path, rng = tmp_path / "x.mcap", random.Random(3)
    for k in range(150):
        data = bytearray(good)
        if k % 3 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            flight = read(path)
        except FlightError as error:
            assert str(error).startswith(str(path))
        else:  # damage beyond what is read, or that no checksum covers: it is still the same run
            assert replay(flight).difference is None


@pytest.mark.parametrize(("data", "says"), [
    (b"", "not a whole MCAP"), (b"\x89MCAP0\r\n", "not a whole MCAP"), (b"PK\x03\x04" * 9, "not a whole MCAP"),
    (mcap_witness.MAGIC + b"\x01" + struct.pack("<Q", 2**62), "not a whole MCAP"),
])
def test_files_that_are_no_mcap(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "x.mcap").write_bytes(data)
    with pytest.raises(FlightError, match=says):
        read(tmp_path / "x.mcap")


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    (os.mkfifo if kind == "fifo" else os.mkdir)(tmp_path / "x")
    with pytest.raises(FlightError, match=rf"{tmp_path}/x: no regular file"):
        read(tmp_path / "x")


def test_a_reader_of_its_output_may_leave_early() -> None:
    """`vlad flight show FILE | head`"""
    read_end, write_end = os.pipe()
    os.close(read_end)
    file = Path(__file__).parents[1] / "replay/runs/servo_silent.mcap"
    done = subprocess.run([sys.executable, "-m", "vlad.main", "flight", "show", str(file)], stdout=write_end,
                          stderr=subprocess.PIPE, check=False)  # fmt: skip
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_mcap_file_of_somebody_else(tmp_path: Path) -> None:
    from mcap.writer import Writer

    with (tmp_path / "x.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.finish()  # type: ignore[no-untyped-call]
    with pytest.raises(FlightError, match="not a flight record"):
        read(tmp_path / "x.mcap")


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = About(version="1", board="b", joints=JOINTS, servo={})
    monkeypatch.setattr("vlad.flight_file.messages", lambda records, joints: (_ for _ in ()).throw(OSError(28, "x")))
    with pytest.raises(OSError, match="x"):
        write(tmp_path / "a.mcap", about, [])
    assert list(tmp_path.iterdir()) == []


def test_every_channel_has_a_schema() -> None:
    assert set(SCHEMA_OF.values()) | {"foxglove.CompressedImage"} == set(SCHEMAS)
    for name, schema in SCHEMAS.items():
        assert schema["title"] == name and schema["type"] == "object"
