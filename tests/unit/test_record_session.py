"""The recording loop with made-up rigs: what keys, time, outcomes and failures do to an episode."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.moving_pictures import CAMERAS, PERIOD_NS, picture
from tests.pty_servos import joints as arm_joints
from vlad.arm import Joint
from vlad.dataset.writer import DatasetWriter
from vlad.errors import DeviceError, DiskShort
from vlad.record.preview import Preview
from vlad.record.rig import Floats, Moment, Outcome
from vlad.record.screen import Screen
from vlad.record.session import Plan, Session

PLAN = Plan("wave", num_episodes=3, episode_time_s=1.0, reset_time_s=0.5)


class MadeUp:
    """A rig whose time is counted in frames. live: with an operator; else it judges after `ends` frames."""

    robot_type, fps = "so101_follower", 30

    def __init__(self, *, live: bool, ends: int = 20) -> None:
        self.live, self._ends = live, ends
        self.joints: tuple[Joint, ...] = arm_joints()
        self.cameras = CAMERAS
        self.frame = self.episode_frame = 0
        self.begun: list[int] = []
        self.acted: list[Floats | None] = []
        self.held = False
        self.approach = 3
        self.fails_at = -1
        self.resumed = 0
        self.pose: Floats = np.zeros(6)

    def start(self) -> None: ...

    def begin(self, episode: int) -> None:
        self.begun.append(episode)
        self.episode_frame = 0

    def observe(self) -> Moment:
        if self.frame == self.fails_at:
            raise DeviceError("the arm has stopped")
        self.frame += 1
        time.sleep(0.0005)
        t_ns = self.frame * PERIOD_NS
        pictures = {camera: picture(camera, len(self.begun), self.frame % 50) for camera in CAMERAS}
        return Moment(t_ns, self.pose, pictures, (t_ns, t_ns, t_ns))

    def act(self, goal: Floats | None) -> Floats:
        assert not self.held, "nothing moves after hold"
        self.acted.append(goal)
        self.episode_frame += 1
        if goal is not None:
            self.pose = goal
        return self.pose

    @property
    def ready(self) -> bool:
        return not self.live or self.frame >= self.approach

    def outcome(self) -> Outcome | None:
        if self.live or self.episode_frame < self._ends:
            return None
        n = len(self.begun)
        return Outcome(n != 2, recovery=n == 3, cluster=n, extra={"reward": 0.25 * n})

    def hold(self) -> None:
        self.held = True

    def resume(self) -> None:
        self.resumed += 1
        if self.resumed == 1:
            raise DeviceError("it is there still")
        self.held, self.fails_at = False, -1

    def report(self) -> Mapping[str, object]:
        return {}

    def close(self) -> None: ...


class Somebody:
    """A teleoperator that says the same pose until it falls silent."""

    name, problem = "somebody", "somebody has gone"

    def __init__(self, silent_from_ns: int = 1 << 62, silent_until_ns: int = 1 << 62) -> None:
        self.begun: list[Floats] = []
        self._from, self._until = silent_from_ns, silent_until_ns

    def start(self) -> None: ...

    def begin(self, pose: Floats) -> None:
        self.begun.append(pose)

    def goals_rad(self, now_ns: int) -> Floats | None:
        return None if self._from <= now_ns < self._until else np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])

    def close(self) -> None: ...


class Keys:
    """Presses one key after another, each in its phase, at so many frames into it."""

    def __init__(self, keys: Sequence[tuple[str, int, str]]) -> None:
        self._keys = list(keys)
        self._seen: tuple[str, int] = ("", 0)
        self.session: Session

    def poll(self) -> list[str]:
        phase, frames = self._seen
        self._seen = (self.session.phase, frames + 1 if phase == self.session.phase else 1)
        if not self._keys or self._seen != self._keys[0][:2]:
            return []
        self._seen = ("", 0)
        return [self._keys.pop(0)[2]]


def session_of(tmp_path: Path, rig: MadeUp, *, keys: Sequence[tuple[str, int, str]] = (), plan: Plan = PLAN,
               teleoperator: Somebody | None = None, **options: object) -> Session:  # fmt: skip
    writer = DatasetWriter(tmp_path / "set", 30, [j.name for j in rig.joints], CAMERAS,
                           **{"min_free_bytes": 0, **options})  # type: ignore[arg-type]  # fmt: skip
    if not keys:
        return Session(rig, teleoperator or Somebody(), writer, plan)
    operator = Keys(keys)
    operator.session = Session(rig, teleoperator or Somebody(), writer, plan, operator=operator)
    return operator.session


def test_an_environment_judges_its_episodes(tmp_path: Path) -> None:
    rig = MadeUp(live=False)
    session = session_of(tmp_path, rig)
    session.run()
    rows = session.writer.rows
    assert [row["success"] for row in rows] == [True, False, True]
    assert [row["recovery"] for row in rows] == [False, False, True]
    assert [(row["cluster"], row["reward"]) for row in rows] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert [row["length"] for row in rows] == [20, 20, 20]
    assert rig.begun == [0, 1, 2] and rig.frame == 60, "nothing happens between its episodes"
    assert len(session.teleoperator.begun) == 3  # type: ignore[attr-defined]


def test_an_environment_that_never_ends_is_a_failure_by_time(tmp_path: Path) -> None:
    session = session_of(tmp_path, MadeUp(live=False, ends=10**9), plan=Plan("wave", 1, 0.5, 0.0))
    session.run()
    (row,) = session.writer.rows
    assert not row["success"] and 15 <= row["length"] <= 17


def test_keys_of_an_operator(tmp_path: Path) -> None:
    """Success by Enter; recorded again by the left arrow; ended by the right arrow and then told a failure; stopped."""
    rig = MadeUp(live=True)
    keys = [("record", 10, "enter"), ("reset", 5, "right"), ("record", 7, "left"), ("reset", 3, "right"),
            ("record", 11, "right"), ("label", 4, "backspace"), ("reset", 2, "right"),
            ("record", 5, "esc")]  # fmt: skip
    session = session_of(tmp_path, rig, keys=keys)
    session.run()
    rows = session.writer.rows
    assert [(row["success"], row["length"]) for row in rows] == [(True, 10), (False, 11)]
    assert session.saved == {"success": 1, "failure": 1} and session.dropped == 2
    assert rig.held and session.phase == "done"
    assert len(session.teleoperator.begun) == 1, "a live arm is handed over once"  # type: ignore[attr-defined]


def test_time_ends_an_episode_and_the_operator_is_asked_unless_there_is_a_label(tmp_path: Path) -> None:
    rig = MadeUp(live=True)
    session = session_of(tmp_path, rig, keys=[("label", 9, "enter")], plan=Plan("wave", 1, 1.0, 0.0))
    session.run()
    assert [(row["success"], row["length"]) for row in session.writer.rows] == [(True, 31)]
    session.writer.close()
    session = session_of(tmp_path, MadeUp(live=True), plan=Plan("wave", 2, 1.0, 0.0, "failure"), resume=True)
    session.run()
    assert [row["success"] for row in session.writer.rows] == [True, False, False]


def test_reset_time_is_led_and_not_recorded(tmp_path: Path) -> None:
    rig = MadeUp(live=True)
    session = session_of(tmp_path, rig, plan=Plan("wave", 2, 1.0, 2.0, "success"))
    session.run()
    lengths = [row["length"] for row in session.writer.rows]
    assert lengths == [31, 31] and rig.frame >= sum(lengths) + 60
    assert len(rig.acted) == rig.frame, "the arm can be led all the time"


def test_a_teleoperator_that_falls_silent_ends_it_and_nothing_is_saved(tmp_path: Path) -> None:
    rig = MadeUp(live=True)
    session = session_of(tmp_path, rig, teleoperator=Somebody(20 * PERIOD_NS))
    with pytest.raises(DeviceError, match="somebody has gone"):
        session.run()
    assert rig.held and session.writer.episodes == 0 and session.dropped == 1
    silent = [goal is None for goal in rig.acted]
    assert sum(silent) <= 8 and not any(silent[:19]), "a quarter of a second"


def test_a_short_silence_is_none(tmp_path: Path) -> None:
    rig = MadeUp(live=True)
    session = session_of(tmp_path, rig, teleoperator=Somebody(10 * PERIOD_NS, 15 * PERIOD_NS),
                         plan=Plan("wave", 1, 1.0, 0.0, "success"))  # fmt: skip
    session.run()
    assert session.writer.episodes == 1 and sum(goal is None for goal in rig.acted) == 5


@pytest.mark.parametrize("fails_at", (1, 10, 45))
def test_an_arm_that_stops_ends_it_with_whole_episodes(tmp_path: Path, fails_at: int) -> None:
    rig = MadeUp(live=True)
    rig.fails_at = fails_at
    session = session_of(tmp_path, rig, plan=Plan("wave", 3, 1.0, 0.0, "success"))
    with pytest.raises(DeviceError, match="has stopped"):
        session.run()
    assert session.writer.episodes == (fails_at == 45) and session.writer.frames_under_way == 0
    assert session.dropped == (fails_at == 10), "the others stop before an episode and after one"


def test_an_operator_goes_on_after_a_stop(tmp_path: Path) -> None:
    rig = MadeUp(live=True)
    rig.fails_at = 20
    keys = [("held", 3, "right"), ("held", 2, "right"), ("record", 8, "enter"), ("reset", 1, "esc")]
    session = session_of(tmp_path, rig, keys=keys)
    session.run()
    assert rig.resumed == 2 and session.dropped == 1 and not session.problem
    assert [(row["success"], row["length"]) for row in session.writer.rows] == [(True, 8)]
    assert len(session.teleoperator.begun) == 2, "from where the arm holds"  # type: ignore[attr-defined]


def test_an_operator_who_does_not_go_on_is_told_why_it_ended(tmp_path: Path) -> None:
    rig = MadeUp(live=True)
    rig.fails_at = 20
    session = session_of(tmp_path, rig, keys=[("held", 3, "esc")])
    with pytest.raises(DeviceError, match="the arm has stopped"):
        session.run()
    assert rig.held and session.writer.episodes == 0


def test_an_arm_that_stops_while_an_episode_is_saved_leaves_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = MadeUp(live=True)
    session = session_of(tmp_path, rig, plan=Plan("wave", 3, 1.0, 0.0, "success"))
    save = session.writer.save_episode
    stopped = threading.Event()

    def slow(*args: object, **options: object) -> int:
        rig.fails_at = rig.frame + 2
        stopped.wait(0.5)
        return save(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(session.writer, "save_episode", slow)
    with pytest.raises(DeviceError, match="has stopped"):
        session.run()
    assert session.writer.episodes == 1 and session.saved["success"] == 1


def test_a_disk_that_runs_short_ends_it_with_whole_episodes(tmp_path: Path) -> None:
    rig = MadeUp(live=True)
    session = session_of(tmp_path, rig, plan=Plan("wave", 9, 2.0, 0.0, "success"), min_free_bytes=1,
                         free_bytes=lambda path: int(rig.frame < 100))  # fmt: skip
    with pytest.raises(DiskShort):
        session.run()
    assert rig.held and session.writer.episodes == 1
    assert not list((tmp_path / "set/.vlad-recording").iterdir())


def test_the_preview_shows_what_is_recorded_and_nothing_else(tmp_path: Path) -> None:
    import simplejpeg

    preview = Preview("127.0.0.1:0")
    try:
        url = f"http://127.0.0.1:{preview._server.server_address[1]}"
        shown: dict[str, NDArray[np.uint8]] = {camera: picture(camera, 0, 0) for camera in CAMERAS}
        preview.show(shown)
        with urllib.request.urlopen(url, timeout=10) as page:
            text = page.read().decode()
        assert all(f'src="/{camera}"' in text for camera in CAMERAS) and text.count("<img") == len(CAMERAS)
        with urllib.request.urlopen(f"{url}/top", timeout=10) as stream:
            head = stream.read(200)
            start = head.index(b"\xff\xd8")
            length = int(head[head.index(b"Content-Length: ") + 16 :].split(b"\r\n")[0])
            jpeg = head[start:] + stream.read(length - (len(head) - start))
        seen = simplejpeg.decode_jpeg(jpeg, "RGB")
        assert np.abs(seen.astype(float) - shown["top"]).mean() < 6
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}/left", timeout=10)
        assert refused.value.code == 404
    finally:
        preview.close()


def test_the_screen_says_where_the_recording_is_and_which_keys_there_are(tmp_path: Path) -> None:
    rig = MadeUp(live=True)
    session = session_of(tmp_path, rig, keys=[("record", 9, "esc")])
    screen, seen = Screen("q/a shoulder_pan"), []
    session._watch = lambda pictures: seen.append((session.phase, str(screen._text(session))))
    session.run()
    recording = [text for phase, text in seen if phase == "record"]
    assert len(recording) == 9 and "approach" in {phase for phase, _ in seen}
    for word in ("● recording", "episode 1 of 3", "wave", "Enter success", "Backspace failure", "q/a shoulder", "GiB"):
        assert word in recording[-1], recording[-1]
