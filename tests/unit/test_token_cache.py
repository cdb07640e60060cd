"""What is reused of the last observation, how old it may be, and what the gate is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vlad.camera import Frame
from vlad.ladder import FULL, Prerequisite, Rung, parse_rung
from vlad.servo import MS
from vlad.token_cache import ALL_CHANGED, OTHER_ENGAGEMENT, OTHER_TASK, TOO_OLD, Observation, TokenCache, change

REUSE, STATE = parse_rung("reuse"), parse_rung("state_only")
T0 = 1_000_000 * MS
AGE = 1_667 * MS
CAMERAS = ("top", "side")
GREY = np.full((48, 64, 3), 90, np.uint8)


class Recorder:
    """A policy that writes down what it was asked."""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode_image(self, camera_index: int, image: NDArray[np.uint8]) -> str:
        self.encoded.append(camera_index)
        return f"{camera_index}:{image[0, 0, 0]}"

    def prefill(self, tokens_by_camera: Sequence[str], task: Any, state: Any) -> str:
        return "|".join(tokens_by_camera)

    def refresh_state(self, prefix: str, state: Any) -> str:
        return f"{prefix} {state}"


class Eyes:
    """Two cameras whose pictures are levels of grey."""

    def __init__(self) -> None:
        self.cache = TokenCache(CAMERAS, AGE, 2.0)
        self.policy = Recorder()
        self.levels = {"top": 10, "side": 20}
        self.seq = 0

    def frames(self, now_ns: int) -> dict[str, Frame]:
        self.seq += 1
        return {
            name: Frame(self.seq, now_ns - 20 * MS, np.full((48, 64, 3), level, np.uint8))
            for name, level in self.levels.items()
        }

    def can(self, rung: Rung, now_ns: int, epoch: int = 1, task: Any = 0) -> Prerequisite:
        return self.cache.prerequisite(rung, now_ns, epoch, task, self.frames(now_ns))

    def see(self, rung: Rung, now_ns: int, epoch: int = 1, task: Any = 0) -> tuple[str, Observation]:
        self.policy.encoded.clear()
        return self.cache.assemble(
            self.policy, rung, self.frames(now_ns), now_ns=now_ns, epoch=epoch, task=task, t_obs_ns=now_ns,
            state=np.zeros(1),
        )


# --- the difference of two pictures ---------------------------------------------------------


@pytest.mark.parametrize("shape", [(48, 64), (240, 320), (480, 640), (96, 96), (1, 1), (123, 457), (1080, 1920)])
def test_the_difference_of_uniform_pictures_is_their_levels(shape: tuple[int, int]) -> None:
    dark, light = np.full((*shape, 3), 10, np.uint8), np.full((*shape, 3), 250, np.uint8)
    assert change(dark, dark) == 0.0
    assert change(dark, light) == change(light, dark) == pytest.approx(240.0)


def test_what_moves_in_a_corner_counts_as_much_as_in_the_whole() -> None:
    before = np.full((480, 640, 3), 90, np.uint8)
    after = before.copy()
    after[-24:, -24:] = 200  # 0.2 % of the picture
    assert change(before, after) > 20
    assert np.abs(after.astype(int) - before).mean() < 0.3


def test_noise_averages_out() -> None:
    rng = np.random.default_rng(0)
    noisy = [np.clip(rng.normal(90, 1.0, (480, 640, 3)), 0, 255).astype(np.uint8) for _ in range(2)]
    assert change(*noisy) < 2.0


def test_pictures_of_unlike_sizes_are_different() -> None:
    assert change(GREY, np.full((64, 48, 3), 90, np.uint8)) == 255.0


# --- reuse ----------------------------------------------------------------------------------


def test_only_the_cameras_that_changed_are_encoded_and_both_ages_go_to_the_gate() -> None:
    eyes = Eyes()
    assert eyes.can(REUSE, T0).lacking == "nothing_to_reuse"
    prefix, seen = eyes.see(FULL, T0)
    assert (prefix, eyes.policy.encoded) == ("0:10|1:20", [0, 1])
    assert (seen.frame_age_ns, seen.reuse_age_ns) == (20 * MS, 0)
    eyes.levels["side"] = 60
    assert eyes.can(REUSE, T0 + 500 * MS) == Prerequisite(1)
    prefix, seen = eyes.see(REUSE, T0 + 500 * MS)
    assert (prefix, eyes.policy.encoded) == ("0:10|1:60", [1])
    assert (seen.frame_age_ns, seen.reuse_age_ns) == (20 * MS, 520 * MS)


def test_small_changes_add_up_against_the_frame_behind_the_tokens() -> None:
    eyes = Eyes()
    eyes.see(FULL, T0)
    eyes.levels["top"] += 2
    assert eyes.can(REUSE, T0 + MS) == Prerequisite(0)
    eyes.see(REUSE, T0 + MS)
    eyes.levels["top"] += 1  # 1 from the last frame, 3 from the one that was encoded
    assert eyes.can(REUSE, T0 + 2 * MS) == Prerequisite(1)


def test_a_frozen_camera_does_not_pass_as_unchanged_for_ever() -> None:
    """Its frames come with fresh times and the same picture: the age is that of the encoded one."""
    eyes = Eyes()
    eyes.see(FULL, T0)
    now, encodings = T0, 0
    while now < T0 + 10_000 * MS:
        now += 200 * MS
        way = eyes.can(REUSE, now)
        _, seen = eyes.see(FULL if way.lacking else REUSE, now)
        assert seen.reuse_age_ns <= AGE
        encodings += len(eyes.policy.encoded)
        assert way.lacking in ("", TOO_OLD)
    assert encodings >= 2 * 5


def test_nothing_is_reused_when_every_camera_changed() -> None:
    eyes = Eyes()
    eyes.see(FULL, T0)
    eyes.levels = {"top": 100, "side": 100}
    assert eyes.can(REUSE, T0 + MS).lacking == ALL_CHANGED


def test_tokens_of_another_engagement_are_not_reused() -> None:
    eyes = Eyes()
    eyes.see(FULL, T0, epoch=1)
    assert eyes.can(REUSE, T0 + MS, epoch=2).lacking == OTHER_ENGAGEMENT
    assert eyes.can(STATE, T0 + MS, epoch=2).lacking == OTHER_ENGAGEMENT


def test_image_tokens_do_not_depend_on_the_task_but_a_prefix_does() -> None:
    eyes = Eyes()
    eyes.see(FULL, T0, task=[1, 2])
    assert eyes.can(REUSE, T0 + MS, task=[1, 3]) == Prerequisite(0)
    assert eyes.can(STATE, T0 + MS, task=[1, 3]).lacking == OTHER_TASK
    assert eyes.can(STATE, T0 + MS, task=[1, 2]) == Prerequisite(0)


# --- state only -----------------------------------------------------------------------------


def test_a_state_only_pass_encodes_nothing_and_is_as_old_as_its_oldest_image() -> None:
    eyes = Eyes()
    assert eyes.can(STATE, T0).lacking == "nothing_to_reuse"
    eyes.see(FULL, T0)
    eyes.levels["side"] = 60
    eyes.see(REUSE, T0 + 300 * MS)  # top is of T0, side of now
    prefix, seen = eyes.see(STATE, T0 + 600 * MS)
    assert eyes.policy.encoded == []
    assert prefix == "0:10|1:60 [0.]"
    assert (seen.frame_age_ns, seen.reuse_age_ns) == (0, 620 * MS)


def test_state_only_passes_do_not_renew_the_images() -> None:
    eyes = Eyes()
    eyes.see(FULL, T0)
    last = T0 - 20 * MS + AGE
    eyes.see(STATE, T0 + 800 * MS)
    assert eyes.can(STATE, last) == Prerequisite(0)
    assert eyes.can(STATE, last + 1).lacking == TOO_OLD
