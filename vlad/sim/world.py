"""The simulated table: MuJoCo physics, six servos, a mug, a tea bag and three cameras.

Deterministic: the same seed and the same calls give the same ticks and the same pictures. It has
no clock of its own; the simulated robot steps it in real time, a script as fast as it can.

Joint zero is the middle of the calibrated range. Limits in rad (assets/so101_table.xml):
shoulder_pan +-1.92, shoulder_lift +-1.745, elbow_flex +-1.69, wrist_flex +-1.658,
wrist_roll +-3.14, gripper -0.175 (closed) .. 1.745 (open).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlad.arm import Calibration, check_motors, read_calibration
from vlad.errors import ConfigError
from vlad.sim import registers as reg
from vlad.sim import software_gl
from vlad.sim.servo import AMBIENT_C, RATED_V, TICKS_PER_RAD, TICKS_PER_TURN, Servo
from vlad.sim.start import Start, draw_start

ASSETS = Path(__file__).parent / "assets"
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
CAMERAS = ("top", "gripper", "left")
REST_POSE_RAD = (0.0, -1.72, 1.66, 1.1, 0.0, 0.0)
SUPPLY_OHM = 0.12
BAG_Z_M, MUG_Z_M = 0.0062, 0.0005


def default_calibration() -> dict[str, Calibration]:
    """What the simulated servos hold in their EEPROM unless told otherwise."""
    return read_calibration(ASSETS / "calibration.json")


def _spare_gripper(servo: Servo) -> None:
    """Half torque, half current, early overload: what LeRobot's configure() writes."""
    servo.write(reg.LOCK, b"\0")
    servo.write(reg.MAX_TORQUE, (500).to_bytes(2, "little"))
    servo.write(reg.PROTECTION_CURRENT, (250).to_bytes(2, "little"))
    servo.write(reg.OVERLOAD_TORQUE, bytes((25,)))
    servo.write(reg.LOCK, b"\1")


class World:
    """Physics, servos and pictures of one table.

    Args:
        seed: chooses the tea bag's cluster and place, its heading and the mug's handle.
        calibration: the servos' EEPROM; vlad's own by default.
        supply_v: open-circuit supply voltage, V.
        cluster: where the tea bag lies, 1 to 11 (vlad.sim.start), instead of the seed's choice.

    Raises:
        ConfigError: when the calibration is of other joints, or mujoco is not installed.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        calibration: Mapping[str, Calibration] | None = None,
        supply_v: float = RATED_V,
        cluster: int | None = None,
    ) -> None:
        software_gl.choose()
        try:
            import mujoco  # An extra: the daemon on a board never imports it.
        except ImportError as error:
            raise ConfigError(f"the simulator: {error}; pip install 'vlad[sim]'") from error

        self._mujoco = mujoco
        self.model: Any = mujoco.MjModel.from_xml_path(str(ASSETS / "so101_table.xml"))
        self.data: Any = mujoco.MjData(self.model)
        calibration = calibration or default_calibration()
        check_motors("calibration", JOINTS, calibration)
        self.calibration = {name: calibration[name] for name in JOINTS}
        self.supply_v = supply_v
        self.powered = True
        self.servos = [
            Servo(c.id, c.homing_offset, c.range_min, c.range_max)
            for c in self.calibration.values()
        ]
        _spare_gripper(self.servos[-1])
        self.timestep_s = float(self.model.opt.timestep)
        self._limits = np.array(self.model.jnt_range[: len(JOINTS)])
        self._zero_actual = [self._zero_ticks(name) for name in JOINTS]
        self._owed_s = 0.0
        self._hand_rad: npt.NDArray[np.float64] | None = None
        self._renderers: dict[tuple[int, int], Any] = {}
        self.reset(seed, cluster=cluster)

    def _zero_ticks(self, name: str) -> float:
        """Encoder ticks at joint angle 0; the gripper's closed stop is its range_min."""
        motor = self.calibration[name]
        if name == "gripper":
            closed = float(self._limits[-1, 0]) * TICKS_PER_RAD
            return motor.range_min + motor.homing_offset - closed
        return (motor.range_min + motor.range_max) / 2.0 + motor.homing_offset

    def reset(self, seed: int, *, cluster: int | None = None) -> None:
        """begin() with a start that the seed draws."""
        self.begin(draw_start(np.random.default_rng(seed), cluster))

    def begin(self, start: Start) -> None:
        """Arm at rest with torque off, objects as `start` says, settled for 0.5 s."""
        self.start = start
        self._owed_s = 0.0
        for servo in self.servos:
            servo.temperature_c = AMBIENT_C
        self._mujoco.mj_resetData(self.model, self.data)
        self.clear_obstacles()
        self.take_by_hand(None)
        self.put_objects(start)
        self.place(REST_POSE_RAD)
        self.set_torque(False)
        self.step(0.5)

    def take_state(self, other: World) -> None:
        """Become as `other` is: physics, servos, and what stepping it then does."""
        self.start = other.start
        self._owed_s = other._owed_s
        self._mujoco.mj_copyData(self.data, self.model, other.data)
        for mine, theirs in zip(self.servos, other.servos, strict=True):
            mine.take_state(theirs)

    def put_objects(self, start: Start) -> None:
        """Tea bag and mug as `start` says, at rest, wherever they are; the arm stays and goes on.

        What is seen of them changes with the next step.
        """
        self.start = start
        for name, position, yaw in (("tea_bag", (*start.bag_m, BAG_Z_M), start.bag_yaw_rad),
                                    ("mug", (*start.mug_m, MUG_Z_M), start.mug_yaw_rad)):  # fmt: skip
            self._place_object(name, position, yaw)
            at = int(self.model.joint(name).dofadr[0])
            self.data.qvel[at : at + 6] = 0.0

    def _place_object(self, name: str, position: tuple[float, float, float], yaw: float) -> None:
        at = int(self.model.joint(name).qposadr[0])
        heading = (math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2))
        self.data.qpos[at : at + 7] = (*position, *heading)

    def place(self, pose_rad: Sequence[float]) -> None:
        """Put the arm at joint angles (rad) at once and at rest; the servos' goals follow."""
        count = len(JOINTS)
        self.data.qpos[:count] = np.clip(pose_rad, self._limits[:, 0], self._limits[:, 1])
        self.data.qvel[:] = 0.0
        self._mujoco.mj_forward(self.model, self.data)
        for index, servo in enumerate(self.servos):
            on = servo.torque_enabled
            servo.power_up(self._actual_ticks(index))
            if on:
                servo.write(reg.TORQUE_ENABLE, b"\x01")

    def step(self, dt_s: float) -> None:
        """Advance by dt_s seconds in whole physics steps; the remainder is kept for the next."""
        self._owed_s += dt_s
        steps = int(self._owed_s / self.timestep_s + 1e-9)
        self._owed_s -= steps * self.timestep_s
        for _ in range(steps):
            self.step_once()

    def step_once(self) -> None:
        """Advance by one physics step (timestep_s): servos first, then MuJoCo."""
        data = self.data
        supply = self.supply_v - SUPPLY_OHM * sum(servo.current_a for servo in self.servos)
        speeds = data.qvel[: len(JOINTS)].tolist()
        angles = data.qpos[: len(JOINTS)].tolist()
        zeros = self._zero_actual
        data.ctrl[:] = [
            servo.step(self.timestep_s, zero + angle * TICKS_PER_RAD, speed * TICKS_PER_RAD, supply)
            for servo, zero, angle, speed in zip(self.servos, zeros, angles, speeds, strict=True)
        ]
        self._mujoco.mj_step(self.model, data)
        if self._hand_rad is not None:
            data.qpos[: len(JOINTS)], data.qvel[: len(JOINTS)] = self._hand_rad, 0.0

    def take_by_hand(self, pose_rad: Sequence[float] | None) -> None:
        """Somebody holds the arm at joint angles (rad), whatever its servos do; None: lets it go."""
        low, high = self._limits[:, 0], self._limits[:, 1]
        self._hand_rad = None if pose_rad is None else np.clip(pose_rad, low, high)

    def _actual_ticks(self, index: int) -> float:
        return self._zero_actual[index] + float(self.data.qpos[index]) * TICKS_PER_RAD

    def servo(self, servo_id: int) -> Servo:
        """The servo that answers to `servo_id`.

        Raises:
            KeyError: when none does.
        """
        for servo in self.servos:
            if servo.id == servo_id:
                return servo
        ids = [servo.id for servo in self.servos]
        raise KeyError(f"no servo with id {servo_id}: there are {ids}")

    def set_torque(self, on: bool) -> None:
        """Write Torque_Enable of all servos."""
        for servo in self.servos:
            servo.write(reg.TORQUE_ENABLE, bytes([int(on)]))

    def set_goal_ticks(self, goals: Mapping[int, int]) -> None:
        """Write Goal_Position, ticks by servo id; the torque must be on for it to move."""
        for servo_id, ticks in goals.items():
            self.servo(servo_id).write(reg.GOAL_POSITION, int(ticks).to_bytes(2, "little"))

    def set_goal_rad(self, goals_rad: Sequence[float]) -> None:
        """Write Goal_Position of all joints, rad in JOINTS order."""
        self.set_goal_ticks(
            {s.id: self.ticks_of(index, goals_rad[index]) for index, s in enumerate(self.servos)}
        )

    def ticks_of(self, index: int, angle_rad: float) -> int:
        """The Present_Position that joint `index` shows at an angle, 0..4095."""
        motor = self.calibration[JOINTS[index]]
        ticks = self._zero_actual[index] + angle_rad * TICKS_PER_RAD - motor.homing_offset
        return min(max(round(ticks), 0), TICKS_PER_TURN - 1)

    @property
    def gripper_span_rad(self) -> tuple[float, float]:
        """The gripper's closed angle and its calibrated range, rad: position p of 0..1 is closed + p * range."""
        motor = self.calibration[JOINTS[-1]]
        return float(self._limits[-1, 0]), (motor.range_max - motor.range_min) / TICKS_PER_RAD

    def joint_ticks(self) -> dict[int, int]:
        """Present_Position by servo id."""
        return {servo.id: servo.present_ticks for servo in self.servos}

    def joint_rad(self) -> npt.NDArray[np.float64]:
        """True joint angles (6,), rad, JOINTS order, as no encoder fault can bend them."""
        return np.array(self.data.qpos[: len(JOINTS)])

    def set_power(self, on: bool) -> None:
        """Cut or restore the servos' supply; restored servos come up with torque off."""
        for index, servo in enumerate(self.servos):
            if on:
                servo.power_up(self._actual_ticks(index))
            else:
                servo.power_down()
        self.powered = on

    def set_obstacle(self, index: int, ticks: int) -> None:
        """A wall at a Present_Position (ticks) that joint `index` cannot pass from where it is."""
        motor = self.calibration[JOINTS[index]]
        angle = (ticks + motor.homing_offset - self._zero_actual[index]) / TICKS_PER_RAD
        side = 1 if angle >= self.data.qpos[index] else 0
        self.model.jnt_range[index, side] = angle

    def clear_obstacles(self) -> None:
        """Take away every wall of set_obstacle."""
        self.model.jnt_range[: len(JOINTS)] = self._limits

    def qpos(self) -> npt.NDArray[np.float64]:
        """A copy of MuJoCo's whole position vector, for another process's show()."""
        return np.array(self.data.qpos)

    def show(self, qpos: npt.NDArray[np.float64]) -> None:
        """Take positions from another World without stepping: what render() then draws."""
        self.data.qpos[:] = qpos
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_camlight(self.model, self.data)

    def render(self, camera: str, width: int = 320, height: int = 240) -> npt.NDArray[np.uint8]:
        """One picture (height, width, 3), uint8 RGB, of camera top, gripper or left.

        Drawn in software (vlad.sim.software_gl).

        Raises:
            ConfigError: for an unknown camera, or without a software OpenGL library.
        """
        if camera not in CAMERAS:
            raise ConfigError(f"camera {camera!r}: the simulated cameras are {', '.join(CAMERAS)}")
        renderer = self._renderers.get((width, height))
        if renderer is None:
            software_gl.require()
            # An off-screen buffer larger than the picture would be cleared and resolved in full.
            self.model.vis.global_.offwidth, self.model.vis.global_.offheight = width, height
            renderer = self._mujoco.Renderer(self.model, height, width)
            renderer.scene.flags[self._mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            self._renderers[width, height] = renderer
        renderer.update_scene(self.data, camera)
        picture: npt.NDArray[np.uint8] = renderer.render()
        return picture

    def close(self) -> None:
        """Free the renderers' GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
