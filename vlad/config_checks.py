"""What one key cannot say: the checks of a configuration across keys, files and the machine."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from vlad import arm as arm_module
from vlad.arm import Calibration, Joint, Kind
from vlad.backend import CPU, CPU_PROVIDER
from vlad.config import Config, fail
from vlad.config_keys import (
    STAGE_OF_BLOCK,
    ArmKeys,
    BlockKeys,
    BlocksKeys,
    BoardKeys,
    CameraKeys,
    FileKeys,
    JointKeys,
    ServoKeys,
)
from vlad.errors import BundleError, ConfigError
from vlad.ladder import parse_ladder
from vlad.signature import read_public_key

SOCKET_PATH_MAX = 107  # sun_path of struct sockaddr_un, less the closing zero
SUPERVISOR_BOUND_MS = 500  # row 31 of the fault table
SYSTEMD_SLACK_MS = 1000  # half of WatchdogSec, which is not fed while a heartbeat is too old
BUS_SHARE = 0.8  # of a period; the rest is for turnaround and for the loop

# The same five limits in the words of each kind: the keys and the defaults of v, a and j. The
# defaults give windows of 125 and 50 ms: a stop within 180 ms at 100 Hz.
_LIMITS: Mapping[Kind, tuple[tuple[str, ...], tuple[float, float, float]]] = {
    "body": (
        ("v_max_rad_s", "a_max_rad_s2", "j_max_rad_s3", "min_rad", "max_rad"),
        (2.5, 40.0, 1600.0),
    ),
    "gripper": (
        ("v_max_range_s", "a_max_range_s2", "j_max_range_s3", "min_range", "max_range"),
        (2.0, 32.0, 1280.0),
    ),
}
_OTHER: Mapping[Kind, Kind] = {"body": "gripper", "gripper": "body"}


def resolve(keys: FileKeys, path: Path) -> Config:
    """The Config of a file whose keys are good one by one. Raises ConfigError."""
    arm = msgspec.structs.replace(
        keys.arm,
        port=_absolute(path, keys.arm.port),
        calibration=_absolute(path, keys.arm.calibration),
    )
    policy = keys.policy
    try:
        parse_ladder(policy.ladder)
    except ValueError as error:
        fail(path, "policy.ladder", str(error))
    if policy.rtc is not None and policy.aggregate not in ("rtc", "auto"):
        fail(path, "policy.rtc", f'needs policy.aggregate = "rtc" or "auto", which is "{policy.aggregate}"')
    if policy.temporal_ensemble_coeff is not None and policy.aggregate != "temporal_ensemble":
        fail(path, "policy.temporal_ensemble_coeff",
             f'needs policy.aggregate = "temporal_ensemble", which is "{policy.aggregate}"')
    if policy.bundle is not None:
        policy = msgspec.structs.replace(policy, bundle=_absolute(path, policy.bundle))
    if policy.require_signature and not policy.trusted_keys:
        fail(path, "policy.require_signature", "needs policy.trusted_keys: whose signature?")
    trusted_keys = tuple(_absolute(path, key) for key in policy.trusted_keys)
    policy = msgspec.structs.replace(policy, trusted_keys=trusted_keys)
    control = msgspec.structs.replace(keys.control, socket=_absolute(path, keys.control.socket))
    flight = msgspec.structs.replace(
        keys.flight,
        directory=_absolute(path, keys.flight.directory),
        memory=_absolute(path, keys.flight.memory or f"{keys.control.socket}.flight"),
    )
    config = Config(
        path=path,
        arm=arm,
        joints=_joints(arm, path),
        servo=keys.servo,
        policy=policy,
        cameras=_cameras(keys, path),
        stage=keys.stage,
        block=_blocks(keys.block, path),
        control=control,
        flight=flight,
        log=keys.log,
        board=_board(keys.board, path),
    )
    _check_motion(config)
    _check_bus(arm, keys.servo, path)
    _check_rest_pose(config)
    _check_threads(config)
    _check_blocks(config)
    _check_control(config)
    return config


def _absolute(path: Path, name: str) -> str:
    if "\0" in name:
        raise ConfigError(f"{path}: a path contains a zero byte: {name!r}")
    return os.path.normpath(path.parent / name)


def _board(board: BoardKeys, path: Path) -> BoardKeys:
    if board.critical_c <= board.throttle_c:
        fail(path, "board.critical_c", f"{board.critical_c:g} is not above board.throttle_c, {board.throttle_c:g}")
    return msgspec.structs.replace(
        board,
        memory_pressure=_absolute(path, board.memory_pressure),
        memory_cgroup=board.memory_cgroup and _absolute(path, board.memory_cgroup),
        thermal_zone=board.thermal_zone and _absolute(path, board.thermal_zone),
    )


def _blocks(blocks: BlocksKeys, path: Path) -> BlocksKeys:
    for name in STAGE_OF_BLOCK:
        keys: BlockKeys = getattr(blocks, name)
        keys = msgspec.structs.replace(
            keys, delegate=keys.delegate and _absolute(path, keys.delegate), driver=_absolute(path, keys.driver),
            firmware=_absolute(path, keys.firmware),
        )  # fmt: skip
        blocks = msgspec.structs.replace(blocks, **{name: keys})
    return blocks


def _distinct(path: Path, array: str, field: str, values: Iterable[object]) -> None:
    seen: dict[object, int] = {}
    for i, value in enumerate(values):
        if value in seen:
            first = f"{array}[{seen[value]}].{field}"
            fail(path, f"{array}[{i}].{field}", f"{value!r} is also {first}")
        seen[value] = i


def _joints(arm: ArmKeys, path: Path) -> tuple[Joint, ...]:
    _distinct(path, "arm.joints", "name", [joint.name for joint in arm.joints])
    _distinct(path, "arm.joints", "id", [joint.id for joint in arm.joints])
    try:
        motors = arm_module.read_calibration(Path(arm.calibration))
        names = [joint.name for joint in arm.joints]
        arm_module.check_motors(arm.calibration, names, motors)
    except ConfigError as error:
        fail(path, "arm.calibration", str(error))
    return tuple(
        _joint(keys, motors[keys.name], f"arm.joints[{i}]", path)
        for i, keys in enumerate(arm.joints)
    )


def _joint(keys: JointKeys, motor: Calibration, key: str, path: Path) -> Joint:
    names, defaults = _LIMITS[keys.kind]
    if keys.name == "gripper" and keys.kind != "gripper":
        fail(path, f"{key}.kind", 'must be "gripper" for the joint of that name')
    for name in _LIMITS[_OTHER[keys.kind]][0]:
        if getattr(keys, name) is not None:
            meant = names[_LIMITS[_OTHER[keys.kind]][0].index(name)]
            fail(path, f"{key}.{name}", f"is not a key of a {keys.kind} joint: use {meant}")
    if motor.id != keys.id:
        fail(path, f"{key}.id", f"is {keys.id}, but {motor.id} in the calibration file")
    given = [getattr(keys, name) for name in names]
    v, a, j = (default if g is None else g for g, default in zip(given, defaults, strict=False))
    low, high = arm_module.span(keys.kind, motor)
    minimum = low if given[3] is None else given[3]
    maximum = high if given[4] is None else given[4]
    if minimum >= maximum:
        fail(path, f"{key}.{names[3]}", f"{minimum:g} is not below {names[4]}, {maximum:g}")
    for name, value in ((names[3], minimum), (names[4], maximum)):
        if not low <= value <= high:
            fail(
                path,
                f"{key}.{name}",
                f"{value:g} is outside the calibrated range of {low:.4f} to {high:.4f}",
            )
    return Joint(keys.name, keys.id, keys.kind, motor, minimum, maximum, v, a, j)


def _check_motion(config: Config) -> None:
    stop = arm_module.stop_time(config.joints, config.period_ns)
    if stop.problem:
        joint = config.joints[stop.joint]
        name = _LIMITS[joint.kind][0][0]
        fail(config.path, f"arm.joints[{stop.joint}].{name}", f"{joint.name}: {stop.problem}")


def _check_bus(arm: ArmKeys, servo: ServoKeys, path: Path) -> None:
    """Bytes of a period: request, replies of 30 bytes, goals; ten bits each."""
    n = len(arm.joints)
    period_ms = 1000 / servo.rate_hz
    read_ms = (8 + n + 30 * n) * 10_000 / arm.baud
    write_ms = (8 + 3 * n) * 10_000 / arm.baud
    if read_ms + write_ms > BUS_SHARE * period_ms:
        fail(
            path,
            "servo.rate_hz",
            f"{servo.rate_hz}: {n} servos at {arm.baud} baud need {read_ms + write_ms:.2f} ms of "
            f"the period of {period_ms:.2f} ms; lower the rate, or raise arm.baud",
        )
    if not read_ms < servo.read_budget_ms < period_ms:
        fail(
            path,
            "servo.read_budget_ms",
            f"{servo.read_budget_ms:g} must lie between the {read_ms:.2f} ms that {n} servos need "
            f"at {arm.baud} baud and the period of {period_ms:.2f} ms",
        )


def _check_rest_pose(config: Config) -> None:
    pose = config.arm.rest_pose
    if pose is None:
        return
    names = [joint.name for joint in config.joints]
    for name in pose:
        if name not in names:
            fail(config.path, f"arm.rest_pose.{name}", f"is no joint of the arm: {names}")
    for joint in config.joints:
        key = f"arm.rest_pose.{joint.name}"
        if joint.name not in pose:
            fail(config.path, key, "is missing: a rest pose needs every joint")
        if not joint.min <= pose[joint.name] <= joint.max:
            limits = f"{joint.min:.4f} to {joint.max:.4f}"
            fail(config.path, key, f"{pose[joint.name]:g} is outside the joint's limits, {limits}")


def _cameras(keys: FileKeys, path: Path) -> tuple[CameraKeys, ...]:
    _distinct(path, "camera", "name", [camera.name for camera in keys.camera])
    _distinct(path, "camera", "source", [camera.source for camera in keys.camera])
    cores = keys.stage.capture.affinity
    cameras = []
    for i, camera in enumerate(keys.camera):
        name = camera.source.removeprefix("shm:")
        if camera.source.startswith("shm:"):
            good = name not in ("", ".", "..") and "/" not in name and "\0" not in name
        else:
            good = camera.source.startswith("/dev/") and "\0" not in name
        if not good:
            fail(
                path,
                f"camera[{i}].source",
                f"{camera.source!r} is neither /dev/... nor shm:NAME; `vlad cameras` lists devices",
            )
        cpu = cores[i % len(cores)] if camera.cpu == -1 and cores else camera.cpu
        cameras.append(msgspec.structs.replace(camera, cpu=cpu))
    return tuple(cameras)


def _check_threads(config: Config) -> None:
    if len(config.servo.affinity) > 1:
        fail(config.path, "servo.affinity", "one thread on one core: give at most one")
    for name in ("capture", "vision", "expert", "supervisor"):
        stage, key = getattr(config.stage, name), f"stage.{name}"
        if len(set(stage.affinity)) < len(stage.affinity):
            fail(config.path, f"{key}.affinity", "names a core twice")
        if stage.policy == "other" and stage.priority:
            fail(config.path, f"{key}.priority", f'{stage.priority} needs {key}.policy = "fifo"')
        if stage.policy == "fifo" and not 1 <= stage.priority < config.servo.priority:
            fail(
                config.path,
                f"{key}.priority",
                f"{stage.priority} must be at least 1 and below servo.priority, "
                f"{config.servo.priority}: nothing may run before the servo loop",
            )
    bound_ms = config.stage.supervisor.bound_ms
    if bound_ms is not None and bound_ms > SUPERVISOR_BOUND_MS:
        fail(
            config.path,
            "stage.supervisor.bound_ms",
            f"{bound_ms:g} is above {SUPERVISOR_BOUND_MS}, which the fault table promises",
        )


def _check_blocks(config: Config) -> None:
    for name, stage in STAGE_OF_BLOCK.items():
        block, key = getattr(config.block, name), f"block.{name}"
        if block.timeout_ms is not None and not block.in_worker:
            fail(config.path, f"{key}.timeout_ms", f"needs {key}.worker = true: nothing can end a call in this process")
        if block.allow_cpu_fallback and not block.target.accelerated:
            fail(config.path, f"{key}.allow_cpu_fallback", f"needs {key}.provider or .delegate: this is the CPU")
        if block.delegate is not None and block.provider != CPU_PROVIDER:
            fail(config.path, f"{key}.delegate", f"is for LiteRT, {key}.provider for ONNX Runtime: a block has one")
        if block.provider_options and block.provider == CPU_PROVIDER:
            fail(config.path, f"{key}.provider_options", f"needs {key}.provider: this is the CPU")
        if block.delegate_options and block.delegate is None:
            fail(config.path, f"{key}.delegate_options", f"needs {key}.delegate")
        for file in ("driver", "firmware"):
            if block.delegate is None and getattr(block, file) != getattr(CPU, file):
                fail(config.path, f"{key}.{file}", f"needs {key}.delegate: nothing else has its version looked up")
        bound_ms = getattr(config.stage, stage).bound_ms
        if bound_ms is not None and block.timeout_ms is not None and block.timeout_ms > bound_ms + SYSTEMD_SLACK_MS:
            fail(
                config.path,
                f"{key}.timeout_ms",
                f"{block.timeout_ms:g} is more than {SYSTEMD_SLACK_MS} above stage.{stage}.bound_ms, {bound_ms:g}: "
                "systemd would end the daemon before the worker is killed",
            )


def _check_control(config: Config) -> None:
    length = len(os.fsencode(config.control.socket))
    if length > SOCKET_PATH_MAX:
        fail(
            config.path, "control.socket", f"{length} bytes; a Unix socket takes {SOCKET_PATH_MAX}"
        )
    if config.control.mode & 0o006:
        fail(
            config.path,
            "control.mode",
            f"{config.control.mode:#o} lets every user in: use 0o660 and a group",
        )


def check_machine(config: Config) -> None:
    """What must exist here and now. Raises ConfigError naming file and key."""
    path = config.path
    _check_device(path, "arm.port", config.arm.port, "plug in the servo bus, or correct the path")
    for i, camera in enumerate(config.cameras):
        if camera.source.startswith("shm:"):
            node = f"/dev/shm/{camera.source.removeprefix('shm:')}"
            if not os.path.isfile(node):
                fail(path, f"camera[{i}].source", f"{node} does not exist: start `vlad sim` first")
        else:
            _check_device(
                path, f"camera[{i}].source", camera.source, "`vlad cameras` lists devices"
            )
    _check_bundle(config)
    _check_delegates(config)
    cores = os.sched_getaffinity(0)
    used = [("servo.affinity", config.servo.affinity)]
    used += [(f"camera[{i}].cpu", (c.cpu,)) for i, c in enumerate(config.cameras) if c.cpu >= 0]
    for name in ("capture", "vision", "expert", "supervisor"):
        used.append((f"stage.{name}.affinity", getattr(config.stage, name).affinity))
    for key, wanted in used:
        for core in wanted:
            if core not in cores:
                fail(path, key, f"core {core} is not available here: {sorted(cores)} are")
    for i, group in enumerate(config.control.operator_groups):
        try:
            grp.getgrnam(group)
        except KeyError:
            fail(path, f"control.operator_groups[{i}]", f"no group {group!r} exists here")
    directory = os.path.dirname(config.control.socket)
    if not os.path.isdir(directory):
        fail(path, "control.socket", f"the directory {directory} does not exist: create it")


def _check_delegates(config: Config) -> None:
    for name in STAGE_OF_BLOCK:
        delegate = getattr(config.block, name).delegate
        if delegate is not None and not os.path.isfile(delegate):
            fail(config.path, f"block.{name}.delegate", f"{delegate} does not exist: install the accelerator's library")


def _check_bundle(config: Config) -> None:
    if config.policy.bundle and not Path(config.policy.bundle, "manifest.json").is_file():
        fail(config.path, "policy.bundle", f"{config.policy.bundle} is no bundle: it has no manifest.json")
    for i, key in enumerate(config.policy.trusted_keys):
        try:
            read_public_key(Path(key))
        except BundleError as error:
            fail(config.path, f"policy.trusted_keys[{i}]", str(error))


def _check_device(path: Path, key: str, node: str, advice: str) -> None:
    try:
        mode = os.stat(node).st_mode
    except OSError as error:
        fail(path, key, f"{node}: {error.strerror}; {advice}")
    if not stat.S_ISCHR(mode):
        fail(path, key, f"{node} is not a device; {advice}")
