"""libFuzzer on the manifest of a policy bundle: any bytes are a Manifest or a BundleError that says where.

    python tests/fuzz/fuzz_manifest.py -max_total_time=60 build/fuzz/manifest tests/fuzz/corpus/manifest
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["vlad.manifest"]):
    from vlad import manifest as manifests
from json_mutator import mutate

from vlad.errors import BundleError


def one_input(data: bytes) -> None:
    try:
        manifest = manifests.parse_manifest(data, "here")
    except BundleError as error:
        if not str(error).startswith("here: ") or len(str(error)) > 100_000:
            raise AssertionError(f"a message that does not help: {error}") from error
        return
    joints = len(manifest.joints)
    for statistics in (manifest.state, manifest.action):
        assert len(statistics.mean) == len(statistics.std) == joints
        assert all(map(math.isfinite, statistics.mean)) and all(0 <= s < math.inf for s in statistics.std)
    assert 0 < manifest.rate_hz < math.inf
    for file in manifests.files(manifest):
        assert file.bytes >= 0 and file.path


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input, custom_mutator=mutate)
    atheris.Fuzz()
