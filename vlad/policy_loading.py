"""From a bundle's path to a policy that may drive this arm, or the reason why it may not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vlad import bundle as bundles
from vlad.config import Config
from vlad.config_keys import STAGE_OF_BLOCK, PolicyKeys, RtcKeys
from vlad.errors import BundleError, Refused
from vlad.inference import STAGE_BOUND_MIN_NS, Loaded, Merge, RunnablePolicy
from vlad.ladder import parse_ladder
from vlad.load_check import check_load
from vlad.manifest import ActCamera, ActManifest, SmolvlaManifest
from vlad.pass_cost import measure_pass, measure_vision
from vlad.rtc import RtcConfig
from vlad.scheduler import SchedulerConfig
from vlad.servo import MAX_ACTIONS, MS
from vlad.signature import Trust, read_public_key

PAPER_COEFFICIENT = 0.01  # of the temporal ensemble, in Zhao et al., "Learning Fine-Grained Bimanual Manipulation"

PolicyFactory = Callable[[bundles.Bundle, Config], RunnablePolicy]


def onnx_policy(
    bundle: bundles.Bundle, config: Config, worker_command: Sequence[str] | None = None
) -> RunnablePolicy:
    """The blocks in ONNX Runtime sessions or in workers, as `[block]` says, their pools pinned as the
    stages are, and proved by the bundle's golden inputs and outputs on this very machine.

    worker_command: tests have workers that misbehave."""
    from vlad.block_process import COMMAND
    from vlad.block_workers import BlockWorkers
    from vlad.golden import check_golden
    from vlad.policy import policy_class
    from vlad.units import JointRange

    cores = {block: getattr(config.stage, stage).affinity for block, stage in STAGE_OF_BLOCK.items()}
    workers = BlockWorkers(config.block)
    try:
        workers.start(bundle, config.stage, worker_command or COMMAND)
        policy = policy_class(bundle)(
            bundle,
            intra_threads={name: max(1, len(on)) for name, on in cores.items()},
            affinity={name: on[1:] for name, on in cores.items() if len(on) > 1},
            calibration={
                j.name: JointRange(j.calibration.range_min, j.calibration.range_max)
                for j in config.joints
            },
            load=workers.load,
        )
        policy.workers = workers
        check_golden(policy)
    except BaseException:
        workers.close()
        raise
    return policy


def mismatches(manifest: bundles.Manifest, config: Config) -> list[str]:
    """Why a bundle does not fit this robot, one sentence each; empty when it does (fault 39)."""
    wrong = []
    theirs = [j.name for j in manifest.joints]
    ours = [j.name for j in config.joints]
    if theirs != ours:
        wrong.append(f"its joints are {theirs}, the configuration's are {ours}, in this order")
    else:
        for mine, its in zip(config.joints, manifest.joints, strict=True):
            if mine.gripper != its.gripper:
                wrong.append(f"joint {mine.name} is a gripper on one side only")
    missing = [c.name for c in manifest.cameras if c.name not in {k.name for k in config.cameras}]
    if missing:
        wrong.append(f"it needs cameras {missing}: name them in [[camera]]")
    sizes = {k.name: (k.width, k.height) for k in config.cameras}
    for camera in manifest.cameras:
        if not isinstance(camera, ActCamera) or camera.name not in sizes:
            continue
        theirs_px, ours_px = (camera.width, camera.height), sizes[camera.name]
        if theirs_px != ours_px:
            wrong.append(
                f"camera {camera.name} delivers {ours_px[0]}x{ours_px[1]} and it was trained on "
                f"{theirs_px[0]}x{theirs_px[1]}: an ACT's frames are not scaled"
            )
    if manifest.chunk_size > MAX_ACTIONS:
        wrong.append(f"its chunks have {manifest.chunk_size} actions, at most {MAX_ACTIONS} fit")
    if manifest.rate_hz > config.servo.rate_hz:
        wrong.append(
            f"its rate of {manifest.rate_hz:g} Hz is above servo.rate_hz = {config.servo.rate_hz}"
        )
    return wrong


def merge_of(keys: PolicyKeys, manifest: bundles.Manifest) -> Merge:
    """How the chunks of a policy are merged: as configured, or what suits it where that is "auto".

    Raises Refused for real-time chunking of a policy that has no flow to steer."""
    own = manifest.temporal_ensemble_coeff if isinstance(manifest, ActManifest) else None
    aggregate: str = keys.aggregate
    if aggregate == "auto" and isinstance(manifest, ActManifest):
        aggregate = "weighted_average" if own is None else "temporal_ensemble"
    if aggregate == "temporal_ensemble":
        chosen = (keys.temporal_ensemble_coeff, own, PAPER_COEFFICIENT)
        return Merge(aggregate, next(c for c in chosen if c is not None))
    if aggregate not in ("auto", "rtc"):
        return Merge(aggregate)
    if isinstance(manifest, ActManifest):
        raise Refused('policy.aggregate = "rtc" steers flow matching, and an ACT has none: use "auto", '
                      '"weighted_average" or "temporal_ensemble"')
    rtc = keys.rtc or RtcKeys()
    return Merge("rtc", rtc=RtcConfig(rtc.horizon, rtc.schedule, rtc.max_weight))


def trust_of(keys: PolicyKeys) -> Trust | None:
    """Whose signature a bundle may and must have; None where nothing is configured. Raises BundleError."""
    if not keys.trusted_keys:
        return None
    return Trust(tuple(read_public_key(Path(key)) for key in keys.trusted_keys), keys.require_signature)


def load(
    path: str | Path,
    config: Config,
    lookahead_ns: int,
    *,
    mode: str | None = None,
    manifest_sha256: str | None = None,
    factory: PolicyFactory = onnx_policy,
    progress: Callable[[], None] = lambda: None,
) -> Loaded:
    """Verify, build sessions, check the golden outputs, warm up, measure and judge.

    Raises BundleError for a bad bundle and Refused for a good one that does not fit the robot.
    A policy too slow for async is loaded: `Loaded.check` says so, and engage is refused.
    manifest_sha256: no other bundle than this one.
    """
    bundle = bundles.load(Path(path), trust=trust_of(config.policy), manifest_sha256=manifest_sha256)
    progress()
    manifest = bundle.manifest
    if wrong := mismatches(manifest, config):
        raise Refused(f"{path} does not fit this robot: " + "; ".join(wrong))
    ladder = parse_ladder(config.policy.ladder)
    for rung in ladder:
        if rung.steps is not None and isinstance(manifest, ActManifest):
            raise Refused(f"{path}: rung {rung.name!r} of policy.ladder takes fewer flow steps, and an ACT has none: "
                          "`reuse` and `state_only` are its rungs")
        if rung.steps is not None and isinstance(manifest, SmolvlaManifest) and rung.steps >= manifest.flow.steps:
            raise Refused(f"{path}: rung {rung.name!r} of policy.ladder is no fewer than the policy's "
                          f"{manifest.flow.steps} flow steps")
    try:
        merge = merge_of(config.policy, manifest)
    except Refused as error:
        raise Refused(f"{path}: {error}") from None
    policy = factory(bundle, config)
    try:
        progress()
        policy.warm_up()
        progress()
        frames, state = _blank_frames(manifest, config), np.zeros(len(config.joints))
        measured = measure_pass(policy, frames, 0, state)
        progress()
        rungs, vision_ns = {}, 0
        for rung in ladder:
            rungs[rung] = measure_pass(policy, frames, 0, state, rung)
            progress()
        if ladder:
            vision_ns = measure_vision(policy, frames[0])
    except Exception as error:
        policy.close()
        raise BundleError(f"{path}: does not run: {type(error).__name__}: {error}") from error
    progress()
    timing = SchedulerConfig(
        period_ns=round(1e9 / manifest.rate_hz),
        chunk_size=manifest.chunk_size,
        mode=mode or config.policy.mode,
        threshold=config.policy.threshold,
        lookahead_ns=lookahead_ns,
        quantile=config.policy.quantile,
        window=config.policy.window,
        safety=config.policy.safety_factor,
        ladder=ladder,
        cameras=len(manifest.cameras),
        every_step=merge.aggregate == "temporal_ensemble",
    )
    profile_ns = round((config.board.t_inference_ms or 0) * MS)
    fps = {c.name: c.fps for c in config.cameras}
    cameras = tuple(c.name for c in manifest.cameras)
    return Loaded(
        policy=policy,
        name=Path(path).name,
        path=str(path),
        manifest_sha256=bundle.manifest_sha256,
        signer=bundle.signer,
        cameras=cameras,
        tasks=manifest.task_texts,
        scheduler=timing,
        check=check_load(timing, measured, profile_ns),
        measured_ns=measured,
        stage_bound_ns=max(STAGE_BOUND_MIN_NS, 3 * max(measured)),
        max_frame_age_ns=max(math.ceil(2e9 / fps[name]) for name in cameras),
        max_change=config.policy.reuse_change,
        rungs_ns=rungs,
        vision_ns=vision_ns,
        merge=merge,
    )


def _blank_frames(manifest: bundles.Manifest, config: Config) -> Sequence[np.ndarray]:
    size = {c.name: (c.height, c.width) for c in config.cameras}
    return [np.zeros((*size[c.name], 3), dtype=np.uint8) for c in manifest.cameras]
