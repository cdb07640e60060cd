"""The sweep policy of assets/ as a bundle, built once by `vlad build`: for tests and benchmarks."""

from __future__ import annotations

from pathlib import Path

from vlad.build.command import main as build
from vlad.errors import DeviceError

SWEEP = Path(__file__).resolve().parent.parent / "assets/sweep"


def build_bundle(out: Path) -> Path:
    """The shipped checkpoint as a bundle, built once by `vlad build`."""

    target = out / "sweep.vlad"
    if target.exists():
        return target
    checkpoint = SWEEP / "checkpoint"
    if not checkpoint.exists():
        raise DeviceError(f"{checkpoint} is not there: run the demo from a source tree")
    print("building the bundle from the shipped LeRobot checkpoint")
    status = build([str(checkpoint), "--dataset", str(SWEEP / "dataset"),
                    "--units", "degrees", "-o", str(target)])
    if status:
        raise DeviceError(f"vlad build ended with status {status}")
    return target


