"""What the servo loop's Python side refuses before it reaches C."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vlad.servo import MS, MemoryArm, Servo, ServoConfig

NOW_NS = 1_000_000 * MS


@pytest.mark.parametrize("n", [0, 5, 7, 9, 1000])
def test_a_pose_has_as_many_joints_as_the_loop(servo_config: ServoConfig, n: int) -> None:
    servo, arm = Servo(servo_config, NOW_NS), MemoryArm([0.0] * 6, NOW_NS)
    with pytest.raises(ValueError, match="joints"):
        servo.adopt_memory(arm, True, [0.0] * n)
    with pytest.raises(ValueError, match="joints"):
        servo.adopt_feetech(0, 1_000_000, [], [0] * n, 0, MS, MS, [1000] * n)
    with pytest.raises(ValueError, match="joints"):
        Servo(replace(servo_config, rest_pose=(0.0,) * n), NOW_NS)
    with pytest.raises(ValueError, match="joints"):
        arm.inject(present=[0.0] * n)


def test_an_arm_of_other_size_is_refused(servo_config: ServoConfig) -> None:
    with pytest.raises(ValueError, match="joints"):
        Servo(servo_config, NOW_NS).adopt_memory(MemoryArm([0.0] * 5, NOW_NS), True, [0.0] * 6)


def test_a_second_hand_over_before_the_first_is_taken_changes_nothing(servo_config: ServoConfig) -> None:
    servo, arm = Servo(servo_config, NOW_NS), MemoryArm([0.0] * 6, NOW_NS)
    servo.adopt_memory(arm, True, [0.0] * 6)
    with pytest.raises(OSError, match="busy"):
        servo.adopt_memory(arm, False, [0.1] * 6)
    with pytest.raises(OSError, match="busy"):
        servo.adopt_feetech(0, 1_000_000, [None] * 6, [0] * 6, 0, MS, MS, [1000] * 6)
    assert arm.judge()["torque_mask"] == 0b111111
    servo.tick(NOW_NS + 10 * MS)
    servo.adopt_memory(arm, False, [0.1] * 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_a_pose_is_of_numbers_that_joints_have(servo_config: ServoConfig, value: float) -> None:
    arm = MemoryArm([0.0] * 6, NOW_NS)
    with pytest.raises(ValueError, match="command"):
        Servo(servo_config, NOW_NS).adopt_memory(arm, True, [0.0] * 5 + [value])
