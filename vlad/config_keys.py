"""Every key of the configuration file: type, bounds, default and meaning.

docs/configuration.md is made from these (`python -m vlad.config --write-doc`). Units are in the
names. A key whose default is None may be left out; the description says what then holds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from vlad.arm import Kind
from vlad.backend import CPU_PROVIDER, NEUTRON_DRIVER, NEUTRON_FIRMWARE, Target


def _key(text: str, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


Path = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Cores = tuple[Annotated[int, msgspec.Meta(ge=0, le=1023)], ...]
Speed = Annotated[float, msgspec.Meta(gt=0, le=100)]
Acceleration = Annotated[float, msgspec.Meta(gt=0, le=1e5)]
Jerk = Annotated[float, msgspec.Meta(gt=0, le=1e8)]
Supply_V = Annotated[float, msgspec.Meta(ge=4, le=24)]
Duration_s = Annotated[float, msgspec.Meta(gt=0, le=86400)]
Heartbeat_ms = Annotated[float, msgspec.Meta(ge=50, le=60000)]
Inference_ms = Annotated[float, msgspec.Meta(gt=0, le=600000)]


class JointKeys(_Table, frozen=True, kw_only=True):
    """`[[arm.joints]]`: one joint, in the order of the policy."""

    name: Annotated[Name, _key("as in LeRobot's calibration file and in the policy bundle")]
    id: Annotated[int, _key("servo id on the bus", ge=1, le=253)]
    kind: Annotated[
        Kind, _key("`body`: limits in rad; `gripper`: limits in its calibrated range, 0..1")
    ] = "body"
    v_max_rad_s: Annotated[Speed | None, _key("speed limit of a body joint; 2.5 if absent")] = None
    a_max_rad_s2: Annotated[Acceleration | None, _key("acceleration limit; 40 if absent")] = None
    j_max_rad_s3: Annotated[Jerk | None, _key("jerk limit; 1600 if absent")] = None
    min_rad: Annotated[
        float | None, _key("lower limit, 0 = middle of the calibrated range; if absent, that range")
    ] = None
    max_rad: Annotated[float | None, _key("upper limit, likewise")] = None
    v_max_range_s: Annotated[Speed | None, _key("speed limit of a gripper; 2 if absent")] = None
    a_max_range_s2: Annotated[Acceleration | None, _key("acceleration limit; 32 if absent")] = None
    j_max_range_s3: Annotated[Jerk | None, _key("jerk limit; 1280 if absent")] = None
    min_range: Annotated[float | None, _key("lower limit of a gripper, 0..1; 0 if absent")] = None
    max_range: Annotated[float | None, _key("upper limit, likewise; 1 if absent")] = None


class ArmKeys(_Table, frozen=True, kw_only=True):
    """`[arm]`: the servo bus and what hangs on it."""

    port: Annotated[Path, _key("serial device, best `/dev/serial/by-id/...`")]
    calibration: Annotated[Path, _key("LeRobot's calibration JSON of this arm")]
    joints: Annotated[tuple[JointKeys, ...], msgspec.Meta(min_length=1, max_length=8)]
    baud: Annotated[
        Literal[1000000, 500000, 250000, 128000, 115200, 76800, 57600, 38400],
        _key("speed of the bus, as set in the servos"),
    ] = 1000000
    rest_pose: Annotated[
        dict[str, float] | None,
        _key(
            "position of every joint (rad; 0..1 for the gripper) where torque may be switched off: "
            "needed for PARK, which is never done without it"
        ),
    ] = None
    park_speed: Annotated[float, _key("speed of PARK as a share of v_max", ge=0.01, le=1)] = 0.2
    following_limit_rad: Annotated[
        float,
        _key(
            "how far a body joint may be from its goal before it counts as blocked and its goal as not "
            "in force; half of it for a joint that bears no load",
            gt=0,
            le=1,
        ),
    ] = 0.2
    supply_v: Annotated[
        Supply_V | None,
        _key(
            "nominal supply voltage: 15 % off it holds, 25 % parks; absent: what the servos see when "
            "their bus is taken over"
        ),
    ] = None


class ServoKeys(_Table, frozen=True, kw_only=True):
    """`[servo]`: the real-time loop."""

    rate_hz: Annotated[int, _key("rate of the loop", ge=20, le=1000)] = 100
    read_budget_ms: Annotated[
        float, _key("the most that reading the arm may cost a period", gt=0, lt=50)
    ] = 4.0
    overrun_hold_ms: Annotated[
        float,
        _key("one wake-up later than this holds the arm; above 50 fault 24 is late", ge=5, le=1000),
    ] = 50.0
    silent_ms: Annotated[
        float,
        _key("a servo that answers nothing for so long latches; above 50 faults 19 and 44 are late", ge=20, le=1000),
    ] = 50.0
    priority: Annotated[int, _key("SCHED_FIFO priority", ge=1, le=98)] = 80
    affinity: Annotated[Cores, _key("the core of the loop, at most one; empty: any")] = ()
    allow_non_realtime: Annotated[
        bool, _key("engage even where SCHED_FIFO and locked memory were refused")
    ] = False
    clamp_permille: Annotated[
        int,
        _key(
            "an action beyond a limit by up to so much of the joint's range is clamped and counted",
            ge=0,
            le=20,
        ),
    ] = 20


class RtcKeys(_Table, frozen=True, kw_only=True):
    """`[policy.rtc]`: how a new chunk is drawn to the old one, with `aggregate = "rtc"`."""

    horizon: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=256)] | Literal["auto"],
        _key(
            "so many actions from the observation on, or as many as inference takes where that is more; "
            "`auto`: all that are left of the old chunk"
        ),
    ] = "auto"
    schedule: Annotated[
        Literal["exp", "linear", "ones", "zeros"],
        _key(
            "how the pull falls off behind what is executed during inference: `exp` or `linear` down to "
            "the horizon, `ones` not before it, `zeros` at once"
        ),
    ] = "exp"
    max_weight: Annotated[float, _key("bound of the pull at one flow step", gt=0, le=100)] = 10.0


class PolicyKeys(_Table, frozen=True, kw_only=True):
    """`[policy]`: what drives the arm, and when it is asked."""

    bundle: Annotated[Path | None, _key("policy bundle to load at start; else `vladctl load`")] = (
        None
    )
    require_signature: Annotated[
        bool, _key("load only bundles that one of `trusted_keys` has signed (docs/bundle.md)")
    ] = False
    trusted_keys: Annotated[
        tuple[Path, ...],
        msgspec.Meta(max_length=16),
        _key(
            "ed25519 public keys in PEM, as `vlad sign --new-key` writes them; a bundle that is signed by none "
            "of them, or wrongly, is refused even where a signature is not required"
        ),
    ] = ()
    mode: Annotated[
        Literal["async", "sync"], _key("`sync`: one chunk, rest, the next; `async`: without rest")
    ] = "async"
    threshold: Annotated[
        Annotated[float, msgspec.Meta(gt=0, lt=1)] | Literal["auto"],
        _key(
            "share of a chunk left in the queue at which the next one is requested; `auto`: from "
            "the predicted inference time, for a fast policy 0.7"
        ),
    ] = "auto"
    ladder: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=64)], ...],
        msgspec.Meta(max_length=8),
        _key(
            "what an `async` request may leave out when a full pass would come too late, best first: "
            "`reuse` (tokens of cameras whose picture did not change), `state_only` (a fresh arm state "
            "on the last images), `steps:N` (flow steps), or one of the first two `+steps:N`; empty: "
            "nothing, the arm comes to rest"
        ),
    ] = ()
    reuse_change: Annotated[
        float,
        _key(
            "rung `reuse`: a picture counts as unchanged while no part of it differs by more than this "
            "from the one behind the tokens, of 255",
            gt=0,
            le=64,
        ),
    ] = 3.0
    aggregate: Annotated[
        Literal[
            "auto", "rtc", "weighted_average", "latest_only", "average", "conservative", "temporal_ensemble"
        ],
        _key(
            "how one chunk goes on from the last: `rtc` samples it so that it does (a flow-matching "
            "policy; docs/seams.md), `temporal_ensemble` takes the mean of all that was said of a time, the "
            "others mix the actions of both where they overlap; `auto`: `rtc` for a SmolVLA, for an ACT "
            "`temporal_ensemble` where its checkpoint has a coefficient, else `weighted_average`"
        ),
    ] = "auto"
    temporal_ensemble_coeff: Annotated[
        Annotated[float, msgspec.Meta(ge=-10, le=10)] | None,
        _key(
            "the i-th chunk heard of a time weighs exp(-coefficient * i): above 0 older ones weigh more, "
            "below 0 newer ones; absent: the checkpoint's own, else 0.01"
        ),
    ] = None
    rtc: Annotated[RtcKeys | None, _key("see `[policy.rtc]`")] = None
    max_jump_deg: Annotated[
        float, _key("farthest first action of a cold start from the arm's pose", gt=0, le=180)
    ] = 30.0
    episode_timeout_s: Annotated[
        Duration_s | None, _key("hold after so long engaged; absent: never")
    ] = None
    no_progress_s: Annotated[
        float, _key("warn when the goals stay within half a degree for so long", ge=1, le=3600)
    ] = 10.0
    quantile: Annotated[
        float, _key("of the measured inference times: the prediction", ge=0.5, lt=1)
    ] = 0.95
    window: Annotated[int, _key("how many inference times are remembered", ge=8, le=1000)] = 50
    safety_factor: Annotated[
        float, _key("on the inference time measured at load", ge=1, le=10)
    ] = 1.2
    seed: Annotated[int, _key("of the noise that flow matching starts from", ge=0, lt=2**32)] = 0


class CameraKeys(_Table, frozen=True, kw_only=True):
    """`[[camera]]`: one camera."""

    name: Annotated[Name, _key("the camera's name in the policy bundle")]
    source: Annotated[
        str,
        msgspec.Meta(max_length=4096),
        _key("`/dev/v4l/by-path/...` or another V4L2 node; `shm:NAME`: a running `vlad sim`"),
    ]
    width: Annotated[int, _key("pixels", ge=16, le=8192)] = 640
    height: Annotated[int, _key("pixels", ge=16, le=8192)] = 480
    fps: Annotated[float, _key("frames per second", ge=1, le=240)] = 30.0
    format: Annotated[
        Literal["MJPG", "YUYV", "NV12", "NM12"], _key("pixel format; of no meaning to `shm:`")
    ] = "MJPG"
    controls: Annotated[
        dict[str, int], _key("V4L2 controls to set, such as `exposure_auto = 1`")
    ] = {}
    hold_when_dark: Annotated[
        bool, _key("hold the arm while the picture is dark, saturated or covered; else only warn")
    ] = False
    cpu: Annotated[
        int, _key("core of the capture thread; -1: that of `stage.capture`", ge=-1, le=1023)
    ] = -1


class StageKeys(_Table, frozen=True, kw_only=True):
    """`[stage.capture]`, `[stage.vision]`, `[stage.expert]`, `[stage.supervisor]`: one thread."""

    affinity: Annotated[Cores, _key("cores of the thread and of its inference; empty: any")] = ()
    policy: Annotated[Literal["other", "fifo"], _key("scheduling policy")] = "other"
    priority: Annotated[int, _key("with `fifo`: below `servo.priority`", ge=0, le=97)] = 0
    bound_ms: Annotated[
        Heartbeat_ms | None,
        _key(
            "heartbeat older than this is a fault; absent: 500, or 3 x the measured p99 where that "
            "is longer"
        ),
    ] = None


class StagesKeys(_Table, frozen=True, kw_only=True):
    """`[stage]`: the threads of the data flow."""

    capture: StageKeys = StageKeys()
    vision: StageKeys = StageKeys()
    expert: StageKeys = StageKeys()
    supervisor: StageKeys = StageKeys()


class BlockKeys(_Table, frozen=True, kw_only=True):
    """`[block.vision]`, `[block.prefill]`, `[block.context]`, `[block.expert]`, `[block.policy]`: where it runs."""

    provider: Annotated[
        Name, _key("ONNX Runtime's execution provider; one that is absent or does not take the graph is an error")
    ] = CPU_PROVIDER
    provider_options: Annotated[dict[str, str], _key("what the provider is told")] = {}
    delegate: Annotated[
        Path | None,
        _key("library of a LiteRT delegate, for a block in `.tflite`: `/usr/lib/libneutron_delegate.so`; one that does "
             "not take the graph is an error (docs/npu.md)"),
    ] = None
    delegate_options: Annotated[dict[str, str], _key("what the delegate is told")] = {}
    driver: Annotated[
        Path, _key("file that holds the version of the Neutron NPU's driver, for a block that `vlad convert` made")
    ] = NEUTRON_DRIVER
    firmware: Annotated[Path, _key("likewise of its firmware")] = NEUTRON_FIRMWARE
    allow_cpu_fallback: Annotated[
        bool,
        _key(
            "let the CPU run what provider or delegate does not take, instead of refusing the bundle; what the "
            "bundle itself says must stay on the CPU (docs/npu.md) needs no such word"
        ),
    ] = False
    worker: Annotated[
        bool | None,
        _key(
            "run the block in a child process, whose crash or hang is a HOLD and its restart; absent: true "
            "where `provider` is not the CPU, or a `delegate` is given"
        ),
    ] = None
    timeout_ms: Annotated[
        Heartbeat_ms | None,
        _key(
            "a worker that answers later than this is killed; absent: 500, or 3 x the measured p99 "
            "where that is longer"
        ),
    ] = None
    start_timeout_s: Annotated[
        float, _key("the most that start, first call and proof of a worker may take", ge=1, le=600)
    ] = 60.0

    @property
    def target(self) -> Target:
        """What the block is to run on."""
        return Target(**{name: getattr(self, name) for name in Target.__struct_fields__})

    @property
    def in_worker(self) -> bool:
        """`worker` with its default filled in."""
        return self.target.accelerated if self.worker is None else self.worker


class BlocksKeys(_Table, frozen=True, kw_only=True):
    """`[block]`: the blocks of the policy; those that it does not have are of no meaning."""

    vision: BlockKeys = BlockKeys()
    prefill: BlockKeys = BlockKeys()
    context: BlockKeys = BlockKeys()
    expert: BlockKeys = BlockKeys()
    policy: BlockKeys = BlockKeys()


STAGE_OF_BLOCK = {"vision": "vision", "prefill": "vision", "context": "vision", "expert": "expert", "policy": "expert"}


class ControlKeys(_Table, frozen=True, kw_only=True):
    """`[control]`: the socket that `vladctl` talks to."""

    socket: Annotated[Path, _key("path of the Unix socket")] = "/run/vlad/vlad.sock"
    mode: Annotated[int, _key("its permissions, octal: `0o660`", ge=0, le=0o777)] = 0o660
    operator_groups: Annotated[
        tuple[Name, ...],
        _key("groups that may move the arm; root and the daemon's own user always may"),
    ] = ()
    max_clients: Annotated[int, _key("connections at a time", ge=1, le=16)] = 16


class FlightKeys(_Table, frozen=True, kw_only=True):
    """`[flight]`: the newest seconds of everything, kept in memory and written to a file on a fault."""

    enabled: Annotated[bool, _key("record at all")] = True
    seconds: Annotated[float, _key("how much is kept", ge=15, le=300)] = 30.0
    directory: Annotated[Path, _key("where files go; made if its parent is there")] = "/var/lib/vlad/flight"
    max_files: Annotated[int, _key("files in it: the oldest is removed", ge=1, le=10000)] = 20
    max_mb: Annotated[int, _key("size of all of them: likewise", ge=1, le=100000)] = 200
    thumbnail_hz: Annotated[
        float, _key("pictures of every camera per second, at most 160 pixels wide; 0: none", ge=0, le=10)
    ] = 3.0
    memory: Annotated[
        Path | None,
        _key(
            "file in memory (tmpfs) that holds the record, so that it survives a crash of the daemon; "
            "absent: `control.socket` with `.flight` appended"
        ),
    ] = None


class LogKeys(_Table, frozen=True, kw_only=True):
    """`[log]`: JSON lines on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], _key("least level")] = "info"


class BoardKeys(_Table, frozen=True, kw_only=True):
    """`[board]`: what is known of this machine."""

    profile: Annotated[Name, _key("name of the machine, in status and reports")] = "generic"
    t_inference_ms: Annotated[
        Inference_ms | None,
        _key(
            "inference time measured on this board before: the load check takes the larger of this "
            "and its own measurement"
        ),
    ] = None


    memory_pressure: Annotated[
        Path, _key("pressure stall information; a kernel without it is not watched")
    ] = "/proc/pressure/memory"
    memory_cgroup: Annotated[
        Path | None, _key("directory of the cgroup whose limit counts; absent: the daemon's own")
    ] = None
    memory_warn_percent: Annotated[
        float,
        _key("no engaging while something waits for memory in so much of a second", gt=0, le=100),
    ] = 20.0
    thermal_zone: Annotated[
        Path | None,
        _key("`/sys/class/thermal/thermal_zone0/temp` or the like, millidegrees; absent: not watched"),
    ] = None
    throttle_c: Annotated[
        float, _key("where the processor begins to throttle: warned of before", gt=0, le=150)
    ] = 85.0
    critical_c: Annotated[
        float, _key("where the arm must stand still: held before", gt=0, le=150)
    ] = 95.0


class FileKeys(_Table, frozen=True, kw_only=True):
    """The whole file. Paths are absolute, or relative to the directory of the file."""

    arm: ArmKeys
    servo: ServoKeys = ServoKeys()
    policy: PolicyKeys = PolicyKeys()
    camera: tuple[CameraKeys, ...] = ()
    stage: StagesKeys = StagesKeys()
    block: BlocksKeys = BlocksKeys()
    control: ControlKeys = ControlKeys()
    flight: FlightKeys = FlightKeys()
    log: LogKeys = LogKeys()
    board: BoardKeys = BoardKeys()
