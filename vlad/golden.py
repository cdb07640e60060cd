"""Golden inputs and outputs: proof that a loaded policy computes what it computed when the bundle
was built.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vlad.act import ActPolicy
from vlad.backend import load_block
from vlad.bundle import Bundle
from vlad.errors import BundleError, DeviceError
from vlad.manifest import ActCamera, ActManifest, Manifest
from vlad.policy import AnyPolicy, policy_class
from vlad.sessions import Load
from vlad.units import JointRange


@dataclasses.dataclass(frozen=True, slots=True)
class GoldenCheck:
    """Largest absolute difference of each golden output, in the policy's normalised space, and what was allowed."""

    differences: dict[str, float]
    tolerance: float
    tolerances: dict[str, float]


def golden_inputs(manifest: Manifest, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Smooth synthetic frames `image0..`, uint8; normalised `state`; `noise` where the policy samples:
    enough to exercise every block.
    """
    generator = np.random.default_rng(seed)
    inputs: dict[str, NDArray[np.generic]] = {}
    for index, camera in enumerate(manifest.cameras):
        height, width = (camera.height, camera.width) if isinstance(camera, ActCamera) else (96, 128)
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
        phase, waves = generator.uniform(0, 6.28, (3, 3)), generator.uniform(0.02, 0.2, (3, 2))
        planes = [127 * (1 + np.sin(w[0] * rows + w[1] * columns + p[0])) for w, p in zip(waves, phase, strict=True)]
        inputs[f"image{index}"] = np.stack(planes, axis=-1).astype(np.uint8)
    state = np.zeros((1, manifest.state_width), dtype=np.float32)
    state[0, : len(manifest.joints)] = generator.standard_normal(len(manifest.joints)) * 0.5
    inputs["state"] = state
    if not isinstance(manifest, ActManifest):
        shape = (manifest.chunk_size, manifest.max_action_dim)
        inputs["noise"] = generator.standard_normal(shape, dtype=np.float32)
    return inputs


def whole_turn(manifest: Manifest) -> dict[str, JointRange]:
    """A calibration for what stays in normalised space, where any does."""
    return {joint.name: JointRange(range_min=0, range_max=4095) for joint in manifest.joints}


@contextlib.contextmanager
def open_for_check(bundle: Bundle, load: Load = load_block) -> Iterator[AnyPolicy]:
    """The policy of a bundle for golden runs only, which stay in normalised space: no arm, so any
    calibration does. `load`: see vlad.sessions.
    """
    policy = policy_class(bundle)(bundle, calibration=whole_turn(bundle.manifest), load=load)
    try:
        yield policy
    finally:
        policy.close()


def run_golden(
    policy: AnyPolicy, task: int, inputs: dict[str, NDArray[np.generic]]
) -> dict[str, NDArray[np.float32]]:
    """Tokens of the first camera and the chunk, both in the policy's normalised space."""
    cameras = len(policy.bundle.manifest.cameras)
    tokens = [policy.encode_image(i, inputs[f"image{i}"].astype(np.uint8)) for i in range(cameras)]
    state = inputs["state"].astype(np.float32)
    if isinstance(policy, ActPolicy):
        return {"tokens": tokens[0], "chunk": policy.decode(policy.see(tokens, state))}
    prefix = policy.language.prefill(tokens, task, state)
    return {
        "tokens": tokens[0],
        "chunk": policy.sample_normalised(prefix, inputs["noise"].astype(np.float32)),
    }


def check_golden(policy: AnyPolicy) -> GoldenCheck:
    """Compute the golden outputs again. Raises BundleError when one differs by more than the
    tolerance, or may differ by more than it varies.
    """
    bundle = policy.bundle
    golden = bundle.manifest.golden
    if golden is None:
        raise BundleError(f"{bundle.path}: has no golden inputs and outputs; rebuild it with `vlad build`")
    expected_inputs = golden_inputs(bundle.manifest)
    if set(golden.inputs) != set(expected_inputs) or set(golden.outputs) != {"tokens", "chunk"}:
        raise BundleError(f"{bundle.path}: golden arrays are not those of this policy")
    inputs = {name: bundle.array(file) for name, file in golden.inputs.items()}
    for name, like in expected_inputs.items():
        if inputs[name].dtype != like.dtype or (name[:5] != "image" and inputs[name].shape != like.shape):
            raise BundleError(f"{bundle.path}: golden input {name} is {inputs[name].dtype} {list(inputs[name].shape)}")
    try:
        found = run_golden(policy, golden.task, inputs)
    except DeviceError as error:
        raise BundleError(f"{bundle.path}: its golden inputs do not run: {error}") from error
    differences, tolerances = {}, {}
    for name, file in golden.outputs.items():
        expected = bundle.array(file)
        if expected.shape != found[name].shape:
            raise BundleError(f"{bundle.path}: golden output {name} is {list(expected.shape)}")
        for where, values in (("in the bundle", expected), ("here", found[name])):
            if not np.isfinite(values).all():
                raise BundleError(f"{bundle.path}: golden output {name} is not finite {where}")
        difference = float(np.abs(expected - found[name]).max())
        tolerance, deviation = golden.tolerances.get(name, golden.tolerance), float(expected.std())
        if tolerance > max(golden.tolerance, deviation):
            raise BundleError(
                f"{bundle.path}: golden.tolerances allows {name} to differ by {tolerance:g}, and it varies by "
                f"{deviation:.3g} itself: that proves nothing; write the bundle again"
            )
        if not difference <= tolerance:
            raise BundleError(
                f"{bundle.path}: golden output {name} differs by {difference:.3g}, more than {tolerance:.3g}: "
                "this runtime does not compute what the bundle was built for"
            )
        tolerances[name] = tolerance
        differences[name] = difference
    return GoldenCheck(differences, golden.tolerance, tolerances)
