"""F40: a wrong configuration is an error that names file and key, and nothing starts."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from vlad import config as config_module
from vlad import config_document
from vlad.config import Config, load
from vlad.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

GOOD = """\
[arm]
port = "bus"
calibration = "calibration.json"
joints = [
    { name = "shoulder_pan", id = 1 },
    { name = "shoulder_lift", id = 2, min_rad = -1.0, max_rad = 1.2 },
    { name = "elbow_flex", id = 3 },
    { name = "wrist_flex", id = 4 },
    { name = "wrist_roll", id = 5 },
    { name = "gripper", id = 6, kind = "gripper" },
]
[servo]
rate_hz = 100
[policy]
threshold = 0.5
[[camera]]
name = "top"
source = "shm:top"
[[camera]]
name = "left"
source = "/dev/video0"
[stage.capture]
affinity = [0]
[control]
socket = "vlad.sock"
"""

CALIBRATION = {
    name: {
        "id": i,
        "drive_mode": 0,
        "homing_offset": 0,
        "range_min": low,
        "range_max": high,
    }
    for i, (name, low, high) in enumerate(
        [
            ("shoulder_pan", 782, 3284),
            ("shoulder_lift", 907, 3181),
            ("elbow_flex", 951, 3153),
            ("wrist_flex", 968, 3128),
            ("wrist_roll", 0, 4095),
            ("gripper", 1422, 2673),
        ],
        start=1,
    )
}
POSE = "shoulder_pan = 0, elbow_flex = 0, wrist_flex = 0, wrist_roll = 0"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "calibration.json").write_text(json.dumps(CALIBRATION))
    return tmp_path


def write(directory: Path, text: str) -> Path:
    path = directory / "arm.toml"
    path.write_text(text)
    return path


def read(directory: Path, text: str) -> Config:
    return load(write(directory, text), machine=False)


def error(directory: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(directory, text)
    return str(caught.value)


# old text of GOOD -> new text, the key that the error must name, a word of what to do
BAD = [
    ("[servo]", "[servos]", "servos", "did you mean servo?"),
    ("rate_hz = 100", "rate_hz = 19", "servo.rate_hz", "20 to 1000"),
    ("rate_hz = 100", "rate_hz = 1001", "servo.rate_hz", "20 to 1000"),
    ("rate_hz = 100", "rate_hz = 100.5", "servo.rate_hz", "integer"),
    ("rate_hz = 100", "rate_hz = true", "servo.rate_hz", "integer"),
    ("rate_hz = 100", 'rate_hz = "fast"', "servo.rate_hz", "integer"),
    ("rate_hz = 100", "rate_hz = 1979-05-27", "servo.rate_hz", "integer"),
    ("rate_hz = 100", "rate_khz = 0.1", "servo.rate_khz", "did you mean rate_hz"),
    ("rate_hz = 100", "rate_ms = 10", "servo.rate_ms", "did you mean rate_hz"),
    ("rate_hz = 100", "rate_hz = 1000", "servo.rate_hz", "1 Mbaud"),
    ("rate_hz = 100", "read_budget_ms = 10", "servo.read_budget_ms", "the period of 10.00 ms"),
    ("rate_hz = 100", "read_budget_ms = 0.5", "servo.read_budget_ms", "1.94 ms"),
    ("rate_hz = 100", "read_budget_ms = nan", "servo.read_budget_ms", "not a finite number"),
    ("rate_hz = 100", "read_budget_ms = inf", "servo.read_budget_ms", "not a finite number"),
    ("rate_hz = 100", "read_budget_us = 400", "servo.read_budget_us", "read_budget_ms"),
    ("rate_hz = 100", "affinity = [0, 1]", "servo.affinity", "at most one"),
    ("rate_hz = 100", "affinity = [-1]", "servo.affinity[0]", "0 to 1023"),
    ("rate_hz = 100", "affinity = 0", "servo.affinity", "array of integer"),
    ("rate_hz = 100", "priority = 99", "servo.priority", "1 to 98"),
    ("rate_hz = 100", "clamp_permille = 21", "servo.clamp_permille", "0 to 20"),
    ("rate_hz = 100", 'allow_non_realtime = "no"', "servo.allow_non_realtime", "true | false"),
    ("rate_hz = 100", "rate_hz = 99999999999999999999", "servo.rate_hz", "out of all bounds"),
    ('port = "bus"', "", "arm.port", "is missing: serial device"),
    ('port = "bus"', 'port = ""', "arm.port", "text"),
    ('port = "bus"', 'port = "a\\u0000b"', "a path contains a zero byte", ""),
    ('port = "bus"', 'port = "bus"\nbaud = 9600', "arm.baud", "1000000 | 500000"),
    ('port = "bus"', 'port = "bus"\nbaud = 38400', "servo.rate_hz", "raise arm.baud"),
    ('port = "bus"', 'port = "bus"\nfollowing_limit_deg = 5', "arm.following_limit_deg", "_rad"),
    ('port = "bus"', 'port = "bus"\nrest_pose = { gripper = 0 }', "arm.rest_pose.shoulder_pan",
     "needs every joint"),
    ('port = "bus"', f'port = "bus"\nrest_pose = {{ {POSE}, gripper = 0, shoulder_lift = -1.1 }}',
     "arm.rest_pose.shoulder_lift", "-1.0000 to 1.2000"),
    ('port = "bus"', f'port = "bus"\nrest_pose = {{ {POSE}, gripper = 0, shoulder_lft = -1.1 }}',
     "arm.rest_pose.shoulder_lft", "is no joint"),
    ('port = "bus"', 'port = "bus"\nrest_pose = { gripper = nan }', "arm.rest_pose.gripper",
     "not a finite number"),
    ('port = "bus"', 'port = "bus"\nrest_pose = { gripper = "open" }', "arm.rest_pose.gripper",
     "number"),
    ("calibration.json", "absent.json", "arm.calibration", "No such file"),
    ('name = "shoulder_pan"', 'nam = "shoulder_pan"', "arm.joints[0].nam", "did you mean name"),
    ('"shoulder_pan"', '"elbow_flex"', "arm.joints[2].name", "arm.joints[0].name"),
    ('"shoulder_pan"', '"shoulder pan"', "arm.joints[0].name", "letters, digits"),
    ('"shoulder_pan"', '"base"', "arm.calibration", "has no motor ['base']"),
    ("{ name = \"wrist_roll\", id = 5 },", "", "arm.calibration", "['wrist_roll']"),
    ("id = 3", "id = 2", "arm.joints[2].id", "arm.joints[1].id"),
    ("id = 3", "id = 9", "arm.joints[2].id", "3 in the calibration"),
    ("id = 3", "id = 254", "arm.joints[2].id", "1 to 253"),
    ("id = 3", "id = 3, v_max_deg_s = 90", "arm.joints[2].v_max_deg_s", "v_max_rad_s"),
    ("id = 3", "id = 3, v_max_rad_ms = 1", "arm.joints[2].v_max_rad_ms", "v_max_rad_s"),
    ("id = 3", "id = 3, v_max_rad_s = 0", "arm.joints[2].v_max_rad_s", "> 0"),
    ("id = 3", "id = 3, v_max_rad_s = -2.5", "arm.joints[2].v_max_rad_s", "> 0"),
    ("id = 3", "id = 3, v_max_rad_s = inf", "arm.joints[2].v_max_rad_s", "not a finite number"),
    ("id = 3", "id = 3, v_max_rad_s = 0.1", "arm.joints[2].v_max_rad_s", "below one encoder tick"),
    ("id = 3", "id = 3, v_max_range_s = 1", "arm.joints[2].v_max_range_s", "use v_max_rad_s"),
    ("id = 3", "id = 3, a_max_rad_s2 = 10", "arm.joints[2].v_max_rad_s", "at most 300 ms"),
    ("id = 3", "id = 3, j_max_rad_s3 = 400", "arm.joints[2].v_max_rad_s", "at most 300 ms"),
    ("id = 3", "id = 3, min_rad = -3", "arm.joints[2].min_rad", "calibrated range of -1.6889"),
    ("id = 3", "id = 3, max_rad = 1.7", "arm.joints[2].max_rad", "calibrated range"),
    ("id = 3", 'id = 3, kind = "wheel"', "arm.joints[2].kind", '"body" | "gripper"'),
    ("min_rad = -1.0, max_rad = 1.2", "min_rad = 1.2, max_rad = -1.0", "arm.joints[1].min_rad",
     "not below max_rad"),
    ("min_rad = -1.0, max_rad = 1.2", "min_rad = 1.0, max_rad = 1.0", "arm.joints[1].min_rad",
     "not below max_rad"),
    (', kind = "gripper"', "", "arm.joints[5].kind", '"gripper"'),
    (', kind = "gripper"', ', kind = "gripper", v_max_rad_s = 2.5', "arm.joints[5].v_max_rad_s",
     "use v_max_range_s"),
    (', kind = "gripper"', ', kind = "gripper", max_range = 1.1', "arm.joints[5].max_range",
     "0.0000 to 1.0000"),
    ("threshold = 0.5", "threshold = 1.5", "policy.threshold", '"auto"'),
    ("threshold = 0.5", "threshold = 0", "policy.threshold", '"auto"'),
    ("threshold = 0.5", 'threshold = "automatic"', "policy.threshold", '"auto"'),
    ("threshold = 0.5", 'mode = "asynchronous"', "policy.mode", '"async" | "sync"'),
    ("threshold = 0.5", 'aggregate = "mean"', "policy.aggregate", "weighted_average"),
    ("threshold = 0.5", 'aggregate = "average"\n[policy.rtc]\nhorizon = 8', "policy.rtc", '"rtc"'),
    ("threshold = 0.5", 'temporal_ensemble_coeff = 0.01', "policy.temporal_ensemble_coeff", '"temporal_ensemble"'),
    ("threshold = 0.5", 'temporal_ensemble_coeff = 11', "policy.temporal_ensemble_coeff", "10"),
    ("threshold = 0.5", "require_signature = true", "policy.require_signature", "needs policy.trusted_keys"),
    ("threshold = 0.5", "rtc = { horizon = 0 }", "policy.rtc.horizon", '1 to 256 or "auto"'),
    ("threshold = 0.5", 'rtc = { horizon = "all" }', "policy.rtc.horizon", '"auto"'),
    ("threshold = 0.5", 'rtc = { schedule = "cosine" }', "policy.rtc.schedule", '"linear"'),
    ("threshold = 0.5", "rtc = { max_weight = 0 }", "policy.rtc.max_weight", "> 0"),
    ("threshold = 0.5", "rtc = { execution_horizon = 9 }", "policy.rtc.execution_horizon", "horizon"),
    ("threshold = 0.5", "quantile = 95", "policy.quantile", ">= 0.5 and < 1"),
    ("threshold = 0.5", "safety_factor = 0.9", "policy.safety_factor", "1 to 10"),
    ("threshold = 0.5", "max_jump_rad = 0.5", "policy.max_jump_rad", "max_jump_deg"),
    ("threshold = 0.5", 'ladder = ["reuse", "steps:0"]', "policy.ladder", "state_only+steps:N"),
    ("threshold = 0.5", 'ladder = ["full"]', "policy.ladder", "'full' is no rung"),
    ("threshold = 0.5", 'ladder = ["steps:4", "steps:4"]', "policy.ladder", "declared twice"),
    ("threshold = 0.5", 'ladder = "reuse"', "policy.ladder", "array"),
    ("threshold = 0.5", "ladder = [4]", "policy.ladder[0]", "needs text"),
    ("threshold = 0.5", "reuse_change = 0", "policy.reuse_change", "> 0"),
    ("threshold = 0.5", "seed = -1", "policy.seed", ">= 0"),
    ("threshold = 0.5", "episode_timeout_s = 0", "policy.episode_timeout_s", "> 0"),
    ('"left"', '"top"', "camera[1].name", "camera[0].name"),
    ('"/dev/video0"', '"shm:top"', "camera[1].source", "camera[0].source"),
    ('"/dev/video0"', '"video0"', "camera[1].source", "vlad cameras"),
    ('"shm:top"', '"shm:../etc/passwd"', "camera[0].source", "shm:NAME"),
    ('"shm:top"', '"shm:"', "camera[0].source", "shm:NAME"),
    ('"shm:top"', '"shm:top"\nfps = 0', "camera[0].fps", "1 to 240"),
    ('"shm:top"', '"shm:top"\nwidth = 0', "camera[0].width", "16 to 8192"),
    ('"shm:top"', '"shm:top"\nformat = "JPEG"', "camera[0].format", '"MJPG"'),
    ('"shm:top"', '"shm:top"\ncontrols = { gain = 1.5 }', "camera[0].controls.gain", "integer"),
    ("affinity = [0]", "affinity = [0, 0]", "stage.capture.affinity", "twice"),
    ("affinity = [0]", "priority = 5", "stage.capture.priority", "fifo"),
    ("affinity = [0]", 'policy = "fifo"', "stage.capture.priority", "at least 1"),
    ("affinity = [0]", 'policy = "fifo"\npriority = 80', "stage.capture.priority",
     "servo.priority, 80"),
    ("affinity = [0]", 'policy = "rr"', "stage.capture.policy", '"other" | "fifo"'),
    ("affinity = [0]", "bound_s = 1", "stage.capture.bound_s", "bound_ms"),
    ("[stage.capture]", "[stage.llm]", "stage.llm", "known here: capture, expert"),
    ("[stage.capture]\naffinity = [0]", "[stage.supervisor]\nbound_ms = 501",
     "stage.supervisor.bound_ms", "500"),
    ('socket = "vlad.sock"', "mode = 660", "control.mode", "octal"),
    ('socket = "vlad.sock"', "mode = 0o666", "control.mode", "0o660"),
    ('socket = "vlad.sock"', 'socket = "' + "x" * 120 + '"', "control.socket", "107"),
    ('socket = "vlad.sock"', "max_clients = 17", "control.max_clients", "1 to 16"),
    ('socket = "vlad.sock"', 'operator_groups = ["a b"]', "control.operator_groups[0]", "letters"),
    ("[control]", "[log]\nlevel = 'trace'\n[control]", "log.level", '"debug"'),
    ("[control]", "[board]\nt_inference_s = 1\n[control]", "board.t_inference_s", "_ms"),
]  # fmt: skip


@pytest.mark.fault(40)
@pytest.mark.parametrize(("old", "new", "key", "word"), BAD, ids=[f"{b[2]}-{b[1]}" for b in BAD])
def test_f40_bad_value_names_file_and_key(
    directory: Path, old: str, new: str, key: str, word: str
) -> None:
    assert old in GOOD
    text = error(directory, GOOD.replace(old, new, 1))
    assert text.startswith(f"{directory / 'arm.toml'}: {key}")
    assert word.replace("1 Mbaud", "1000000 baud") in text


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "arm: is missing"),
        ("arm = 1", "arm: is a table, not 1"),
        ("arm = []", "arm: is a table, not an array"),
        ("[arm]\n[arm]", "not TOML"),
        ("a = ", "not TOML"),
        ("a = " + "[" * 5000, "not TOML"),
        (GOOD.replace("joints = [", "joints = [] #["), "not TOML"),
        ("\ufeff[arm]", "not TOML"),
        ("a = 1\na = 2", "not TOML"),
        ("# " + "x" * (1 << 20), "is no configuration"),
        ('[arm]\nport = "a"\ncalibration = "b"\njoints = []', "arm.joints: has 0 entries"),
        ('[arm]\nport = "a"\ncalibration = "b"\njoints = [1]', "arm.joints[0]: is a table, not 1"),
        ('[arm]\nport = "a"\ncalibration = "b"\njoints = 1', "arm.joints: 1 is not possible"),
    ],
)
def test_f40_text_that_is_no_configuration(directory: Path, text: str, word: str) -> None:
    said = error(directory, text)
    assert word in said and not said.rstrip().endswith(":")


@pytest.mark.fault(40)
def test_f40_unreadable_files(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: No such file"):
        load(directory / "absent.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(directory)
    (directory / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: not TOML"):
        load(directory / "latin.toml")


def test_good_configuration_is_resolved(directory: Path) -> None:
    config = read(directory, GOOD)
    assert config.arm.port == str(directory / "bus")
    assert config.control.socket == str(directory / "vlad.sock")
    assert config.period_ns == 10_000_000
    assert config.rest_pose is None
    assert [joint.name for joint in config.joints] == list(CALIBRATION)
    pan, lift, gripper = config.joints[0], config.joints[1], config.joints[5]
    assert (pan.v_max, pan.a_max, pan.j_max) == (2.5, 40.0, 1600.0)
    assert pan.max == -pan.min == pytest.approx(1251 * 2 * 3.141592653589793 / 4096)
    assert (lift.min, lift.max) == (-1.0, 1.2)
    assert (gripper.min, gripper.max, gripper.v_max) == (0.0, 1.0, 2.0)
    assert [camera.cpu for camera in config.cameras] == [0, 0]


def test_rest_pose_is_in_joint_order(directory: Path) -> None:
    pose = f"rest_pose = {{ gripper = 0.5, {POSE}, shoulder_lift = 1.2 }}"
    config = read(directory, GOOD.replace('port = "bus"', f'port = "bus"\n{pose}'))
    assert config.rest_pose == (0.0, 1.2, 0.0, 0.0, 0.0, 0.5)


# What the machine must have: (old, new, key, word)
ABSENT = [
    ("", "", "arm.port", "No such file or directory; plug in"),
    ('port = "bus"', 'port = "/dev/null"', "camera[0].source", "start `vlad sim`"),
    ('port = "bus"', 'port = "calibration.json"', "arm.port", "is not a device"),
    ('"shm:top"', '"/dev/video-absent"', "camera[0].source", "vlad cameras"),
    ("threshold = 0.5", 'bundle = "absent.vlad"', "policy.bundle", "no manifest.json"),
    ("threshold = 0.5", 'trusted_keys = ["absent.pub"]', "policy.trusted_keys[0]", "No such file"),
    ("threshold = 0.5", 'trusted_keys = ["calibration.json"]', "policy.trusted_keys[0]", "not a public key in PEM"),
    ("affinity = [0]", "affinity = [1023]", "camera[0].cpu", "core 1023"),
    ("[stage.capture]\naffinity = [0]", "[stage.expert]\naffinity = [1022]",
     "stage.expert.affinity", "core 1022"),
    ('socket = "vlad.sock"', 'operator_groups = ["no-such-group"]', "control.operator_groups[0]",
     "no group"),
    ('socket = "vlad.sock"', 'socket = "absent/vlad.sock"', "control.socket", "create it"),
]  # fmt: skip


@pytest.mark.fault(40)
@pytest.mark.parametrize(("old", "new", "key", "word"), ABSENT, ids=[a[2] for a in ABSENT])
def test_f40_what_is_not_on_this_machine(
    directory: Path, old: str, new: str, key: str, word: str
) -> None:
    text = GOOD.replace(old, new, 1) if old else GOOD
    if key not in ("arm.port",):
        text = text.replace('port = "bus"', 'port = "/dev/null"')
    if key != "camera[0].source":
        text = text.replace('"shm:top"', '"/dev/zero"').replace('"/dev/video0"', '"/dev/full"')
    path = write(directory, text)
    load(path, machine=False)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {key}: ")
    assert word in str(caught.value)


def test_a_machine_that_has_everything(directory: Path) -> None:
    text = GOOD.replace('port = "bus"', 'port = "/dev/null"').replace('"shm:top"', '"/dev/zero"')
    text = text.replace('"/dev/video0"', '"/dev/full"').replace("[0]", "[]")
    assert load(write(directory, text)).cameras[1].source == "/dev/full"


@pytest.mark.parametrize("name", ["so101.toml", "so101-sim.toml", "teabag-sim.toml", "imx95.toml"])
def test_shipped_configurations_are_good(directory: Path, name: str) -> None:
    calibration = str(ROOT / "vlad/sim/assets/calibration.json")
    text = (ROOT / "configs" / name).read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("calibration = "):
            text = text.replace(line, f'calibration = "{calibration}"')
    config = read(directory, text)
    assert len(config.joints) == 6
    assert not config.servo.allow_non_realtime or name.endswith("-sim.toml")


def test_simulated_configuration_as_it_is() -> None:
    config = load(ROOT / "configs/so101-sim.toml", machine=False)
    assert [camera.source for camera in config.cameras] == [
        "shm:vlad-sim-top",
        "shm:vlad-sim-gripper",
        "shm:vlad-sim-left",
    ]


def test_document_is_current_and_has_every_key() -> None:
    text = config_document.DOCUMENT.read_text(encoding="utf-8")
    assert text == config_document.document()
    for table in config_document.TABLES:
        for name in table.__struct_fields__:
            assert f"| `{name}` |" in text


@pytest.mark.fault(40)
def test_f40_the_command_exits_78(directory: Path) -> None:
    good, bad = write(directory, GOOD), directory / "bad.toml"
    bad.write_text(GOOD.replace("[servo]", "[servo]\nrate = 1"))
    command = [sys.executable, "-m", "vlad.config", "--no-machine"]
    run = subprocess.run([*command, good], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    run = subprocess.run([*command, bad], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == config_module.EXIT_CONFIG == 78
    assert "bad.toml: servo.rate: unknown key; did you mean rate_hz" in run.stderr


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("old", "new", "key"),
    [("rate_hz = 100", "rate_hz = 0", "servo.rate_hz"), ("", "", "arm.port")],
    ids=["bad value", "missing device"],
)
def test_f40_the_daemon_exits_78_and_leaves_no_socket(
    directory: Path, old: str, new: str, key: str
) -> None:
    path = write(directory, GOOD.replace(old, new, 1) if old else GOOD)
    command = [sys.executable, "-m", "vlad.main", "run", "--config", str(path)]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )
    assert run.returncode == 78, run.stderr
    assert f"{path}: {key}: " in run.stderr
    assert "Traceback" not in run.stderr
    assert not (directory / "vlad.sock").exists()


@pytest.mark.parametrize("table", config_document.TABLES, ids=lambda table: table.__name__)
def test_the_type_of_every_key_can_be_read(table: type[msgspec.Struct]) -> None:
    """A bound on `float | None` as a whole is an error of msgspec's, and only when the key is used."""
    for field in msgspec.structs.fields(table):
        with contextlib.suppress(msgspec.ValidationError):
            msgspec.convert(5, field.type)
