"""LeRobot's settings against the builder's list, and what LeRobot cannot run against what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import tiny_smolvla
from tests.reference.checkpoints import LEROBOT, NEWEST, ROOT, python, run
from tests.reference.test_smolvla_chunks import compare
from vlad import bundle as bundles
from vlad.build.settings import READ, REFUSED, WITHOUT_EFFECT
from vlad.policy import Policy

EVERY = pytest.mark.parametrize("where", [LEROBOT, NEWEST], ids=["0.4.4", "newest"])
FIELDS = """
import dataclasses, json
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
print(json.dumps([field.name for field in dataclasses.fields(SmolVLAConfig)]))
"""
MIGRATION = """
import runpy
from huggingface_hub import RepoCard
RepoCard.validate = lambda *_, **__: None  # it asks a server whether its own words are well-formed
runpy.run_module("lerobot.processor.migrate_policy_normalization", run_name="__main__")
"""


@EVERY
def test_every_field_of_lerobots_configuration_is_known(where: Path) -> None:
    found = subprocess.run([python(where), "-c", FIELDS], check=True, capture_output=True, text=True)
    fields = set(json.loads(found.stdout.splitlines()[-1])) | {"type"}
    known = READ | REFUSED.keys() | WITHOUT_EFFECT
    assert fields <= known
    assert known - fields <= {"pretrained_revision"}, "no LeRobot has these"


@EVERY
def test_lerobot_cannot_run_what_is_refused_because_it_cannot(where: Path, tmp_path: Path) -> None:
    run(where, "refused_settings.py", tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    print(json.dumps(found, indent=1))
    assert found.pop("nothing") is None, "it runs where nothing is changed"
    assert all(found.values())


def test_an_old_checkpoint_equals_what_lerobots_migration_makes_of_it(tmp_path: Path) -> None:
    """tests/data/smolvla_old, which LeRobot 0.3.3 wrote, in LeRobot 0.4.4 after its own migration."""
    migrated, data = tmp_path / "migrated", tmp_path / "data"
    old = ROOT / "tests/data/smolvla_old/checkpoint"
    command = [python(LEROBOT), "-c", MIGRATION, "--pretrained-path", old, "--output-dir", migrated]
    subprocess.run(command, check=True, cwd=ROOT)
    shutil.copytree(tiny_smolvla.DATA / "vlm", migrated / "vlm")
    run(LEROBOT, "make_checkpoint.py", tmp_path / "made", "--checkpoint", migrated, "--frames", "48x64,30x30")

    tiny_smolvla.copy_of_data(data)
    shutil.rmtree(data / "checkpoint")
    shutil.copytree(old, data / "checkpoint")
    policy = Policy(bundles.load(tiny_smolvla.build(tmp_path / "p.vlad", data=data)))
    for case in (0, 1):
        compare(policy, tiny_smolvla.reference(tmp_path / "made"), case)
