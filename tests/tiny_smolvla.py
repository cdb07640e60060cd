"""The small checkpoint under tests/data/smolvla_tiny that LeRobot wrote, and bundles made of it.

Made by `python tests/reference/make_checkpoint.py tests/data/smolvla_tiny --size tiny --cameras 2
--mixed --frames 48x64,30x30` with lerobot 0.4.4, torch 2.10 and transformers 4.57.6.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlad.build.command import main
from vlad.llm import Prefix
from vlad.policy import Policy
from vlad.units import JointUnits

DATA = Path(__file__).parent / "data" / "smolvla_tiny"
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
DEGREES = JointUnits("degrees", JOINTS, [False] * 5 + [True])


def arguments(
    output: Path, *more: str, data: Path = DATA, units: str = "degrees", vlm: Path | None = None
) -> list[str]:
    """Command line of `vlad build` for a data directory that make_checkpoint.py wrote."""
    return [
        str(data / "checkpoint"),
        *("--dataset", str(data / "dataset"), "--vlm", str(vlm or data / "vlm")),
        *("--units", units, "-o", str(output), *more),
    ]


def build(output: Path, *more: str, data: Path = DATA, vlm: Path | None = None) -> Path:
    """Build a bundle and return its path."""
    status = main([*arguments(output, *more, data=data, vlm=vlm), "--force"])
    assert status == 0
    return output


def copy_of_data(target: Path) -> Path:
    """A writable copy of the data directory, to damage."""
    shutil.copytree(DATA, target)
    return target


def reference(data: Path = DATA) -> dict[str, NDArray[np.generic]]:
    """Observations, noise and LeRobot's chunks, by name and case."""
    with np.load(data / "reference.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def prefix(policy: Policy, made: dict[str, NDArray[np.generic]], case: int) -> Prefix:
    """This project's prefix for a case of the reference."""
    cameras = range(len(policy.bundle.manifest.cameras))
    tokens = [policy.encode_image(i, made[f"image{i}_{case}"]) for i in cameras]
    task = policy.token_ids(str(made[f"task_{case}"]))
    return policy.prefill(tokens, task, DEGREES.to_core(made[f"state_{case}"]))


def chunk(
    policy: Policy, made: dict[str, NDArray[np.generic]], case: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """This project's chunk for a case of the reference: normalised, and in LeRobot's units."""
    normalised = policy.sample_normalised(prefix(policy, made, case), made[f"noise_{case}"].astype(np.float32))
    joints = len(policy.bundle.manifest.joints)
    return normalised[:, :joints], DEGREES.from_core(policy.joint_space.actions(normalised))
