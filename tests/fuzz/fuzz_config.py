"""libFuzzer on the configuration: any text is a Config that holds together or a ConfigError that
names file and key. JSON text stands for the tree of a TOML file; anything else goes to the parser.

    python tests/fuzz/fuzz_config.py -max_total_time=60 build/fuzz/config tests/fuzz/corpus/config
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["vlad.config", "vlad.config_checks", "vlad.arm"]):
    from vlad import config
from json_mutator import mutate

from vlad.errors import ConfigError

NAMES = ("shoulder_pan", "gripper")
DIRECTORY = Path(tempfile.mkdtemp(prefix="vlad-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
FILE = DIRECTORY / "fuzz.toml"
(DIRECTORY / "calibration.json").write_text(json.dumps({
    name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": 9, "range_max": 3000}
    for i, name in enumerate(NAMES, start=1)
}))


def one_input(data: bytes) -> None:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        tree = None
    try:
        if isinstance(tree, dict):
            read = config.from_tree(tree, FILE)
        else:
            FILE.write_bytes(data)
            read = config.load(FILE, machine=False)
    except ConfigError as error:
        if str(FILE) not in str(error) and str(DIRECTORY) not in str(error):
            raise AssertionError(f"a message that does not name the file: {error}") from error
        return
    assert 1 <= len(read.joints) <= 8
    for joint in read.joints:
        assert -math.inf < joint.min < joint.max < math.inf, joint
        assert 0 < joint.v_max < math.inf and 0 < joint.a_max < math.inf and 0 < joint.j_max < math.inf
    assert len({joint.id for joint in read.joints}) == len(read.joints)
    if read.rest_pose is not None:
        assert all(j.min <= at <= j.max for j, at in zip(read.joints, read.rest_pose, strict=True))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()
