"""Rows 38 and 39 at the daemon's door: what is loaded, what is refused, and what keeps running."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_act
from tests.daemons import config_without_devices
from tests.survival import Survival
from tests.tiny_smolvla import build
from vlad import bundle as bundles
from vlad.block_workers import workers_of
from vlad.errors import BundleError, Refused
from vlad.inference import Merge
from vlad.policy_loading import load, merge_of, mismatches
from vlad.rtc import RtcConfig

LOOKAHEAD_NS = 85_000_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bundle") / "tiny.vlad")


def cameras_of(bundle: Path) -> list[str]:
    return [c.name for c in bundles.load(bundle).manifest.cameras]


def test_a_good_bundle_loads_runs_and_is_judged(bundle: Path, tmp_path: Path) -> None:
    loaded = load(bundle, config_without_devices(tmp_path, cameras_of(bundle)), LOOKAHEAD_NS)
    assert len(loaded.measured_ns) == 8
    assert loaded.check.t_inference_ns >= max(loaded.measured_ns)
    chunk = loaded.policy.sample(
        loaded.policy.prefill(
            [loaded.policy.encode_image(i, np.zeros((96, 96, 3), np.uint8))
             for i in range(len(loaded.cameras))], 0, np.zeros(6)),
        generator=np.random.default_rng(0),
    )
    assert chunk.shape == (loaded.scheduler.chunk_size, 6)
    loaded.policy.close()


def test_every_rung_of_a_ladder_is_measured_and_full_passes_alone_are_judged(
    bundle: Path, tmp_path: Path
) -> None:
    names = ["reuse", "state_only", "steps:4", "state_only+steps:1"]
    config = config_without_devices(tmp_path, cameras_of(bundle), _ladder(names))
    loaded = load(bundle, config, LOOKAHEAD_NS)
    loaded.policy.close()
    assert [rung.name for rung in loaded.costs_ns] == ["full", *names]
    assert all(len(times) == 8 and min(times) > 0 for times in loaded.costs_ns.values())
    assert loaded.vision_ns > 0
    assert loaded.check.t_inference_ns == pytest.approx(1.2 * max(loaded.measured_ns), abs=2)


@pytest.mark.fault(39)
def test_f39_a_rung_of_no_fewer_steps_than_the_policys_own_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"rung 'steps:10' .* no fewer than the policy's 10 flow steps"):
        config = config_without_devices(tmp_path, cameras_of(bundle), _ladder(["steps:4", "steps:10"]))
        load(bundle, config, LOOKAHEAD_NS)


def _ladder(names: list[str]) -> Callable[[str], str]:
    return lambda text: text + f"\n[policy]\nladder = {names}\n"


@pytest.mark.fault(39)
@pytest.mark.parametrize(("edit", "named"), [
    (lambda t: t.replace('"shoulder_pan", id = 1', '"shoulder_lift", id = 2', 1).replace(
        '"shoulder_lift", id = 2 },\n    { name = "elbow', '"shoulder_pan", id = 1 },\n    { name = "elbow'),
     "joints"),
    (lambda t: t.replace("[servo]\n", "[servo]\nrate_hz = 20\n"), "rate"),
])
def test_f39_another_robots_bundle_is_refused(
    bundle: Path, tmp_path: Path, edit: Callable[[str], str], named: str, survival: Survival
) -> None:
    config = config_without_devices(tmp_path, cameras_of(bundle), edit)
    with pytest.raises(Refused, match=named):
        load(bundle, config, LOOKAHEAD_NS)
    survival(39, note=f"a bundle for another robot ({named}): refused with the reason")


@pytest.mark.fault(39)
def test_f39_a_missing_camera_is_named(bundle: Path, tmp_path: Path) -> None:
    config = config_without_devices(tmp_path, ["somewhere_else"])
    wrong = mismatches(bundles.load(bundle).manifest, config)
    assert len(wrong) == 1
    assert all(name in wrong[0] for name in cameras_of(bundle))


@pytest.mark.fault(38)
def test_f38_a_block_that_changed_is_refused(bundle: Path, tmp_path: Path) -> None:
    import shutil

    bad = tmp_path / "bad.vlad"
    shutil.copytree(bundle, bad)
    manifest: dict[str, Any] = json.loads((bad / "manifest.json").read_text())
    block = bad / manifest["blocks"][0]["file"]["path"]
    data = bytearray(block.read_bytes())
    data[len(data) // 2] ^= 1
    block.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"sha256|hash"):
        load(bad, config_without_devices(tmp_path, cameras_of(bundle)), LOOKAHEAD_NS)


@pytest.mark.fault(38)
def test_f38_a_policy_that_fails_while_warming_up_is_refused_and_closed(
    bundle: Path, tmp_path: Path
) -> None:
    closed = []

    class Broken:
        def warm_up(self) -> None:
            raise RuntimeError("delegate crashed")

        def close(self) -> None:
            closed.append(True)

    with pytest.raises(BundleError, match="delegate crashed"):
        load(bundle, config_without_devices(tmp_path, cameras_of(bundle)), LOOKAHEAD_NS,
             factory=lambda *_: Broken())  # type: ignore[arg-type, return-value]
    assert closed == [True]


def _policy(text: str) -> Callable[[str], str]:
    return lambda whole: whole.replace("[control]", f"[policy]\n{text}\n\n[control]")


def test_chunks_are_merged_as_suits_the_policy_unless_the_configuration_says_how(
    bundle: Path, act: Path, tmp_path: Path
) -> None:
    def merge(of: Path, text: str = "") -> Merge:
        config = config_without_devices(tmp_path, cameras_of(of), _policy(text))
        return merge_of(config.policy, bundles.load(of).manifest)

    assert merge(bundle) == Merge("rtc", rtc=RtcConfig())
    own = '[policy.rtc]\nhorizon = 12\nschedule = "linear"\nmax_weight = 5'
    assert merge(bundle, own) == Merge("rtc", rtc=RtcConfig(12, "linear", 5.0))
    for of in (bundle, act):
        assert merge(of, 'aggregate = "average"') == Merge("average")
        assert merge(of, 'aggregate = "temporal_ensemble"') == Merge("temporal_ensemble", 0.01)
        given = 'aggregate = "temporal_ensemble"\ntemporal_ensemble_coeff = 0.0'
        assert merge(of, given) == Merge("temporal_ensemble", 0.0)
    assert merge(act) == Merge("weighted_average")
    ensemble = tmp_path / "ensemble.vlad"
    shutil.copytree(act, ensemble)
    text = (ensemble / "manifest.json").read_text()
    (ensemble / "manifest.json").write_text(text.replace('_coeff": null', '_coeff": -0.2'))
    assert merge(ensemble) == Merge("temporal_ensemble", -0.2)
    assert merge(ensemble, 'aggregate = "weighted_average"') == Merge("weighted_average")
    loaded = load(ensemble, config_without_devices(tmp_path, cameras_of(act)), LOOKAHEAD_NS)
    loaded.policy.close()
    assert loaded.merge == Merge("temporal_ensemble", -0.2)
    assert loaded.scheduler.every_step


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_act.build(tmp_path_factory.mktemp("bundle") / "act.vlad")


@pytest.mark.fault(39)
@pytest.mark.parametrize(("text", "named"), [
    ('aggregate = "rtc"', r'act\.vlad: policy\.aggregate = "rtc" steers flow matching.*"weighted_average"'),
    ('ladder = ["steps:4"]', r"rung 'steps:4' .*`reuse` and `state_only` are its rungs"),
    ('ladder = ["state_only", "reuse+steps:2"]', r"rung 'reuse\+steps:2'"),
])
def test_f39_what_an_act_cannot_do_is_refused(act: Path, tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(Refused, match=named):
        load(act, config_without_devices(tmp_path, cameras_of(act), _policy(text)), LOOKAHEAD_NS)


@pytest.mark.fault(39)
def test_f39_cameras_of_another_size_than_an_acts_are_refused(act: Path, tmp_path: Path) -> None:
    config = config_without_devices(
        tmp_path, cameras_of(act), lambda text: text.replace("width = 96", "width = 128", 1)
    )
    with pytest.raises(Refused, match="camera top delivers 128x96 and it was trained on 96x96"):
        load(act, config, LOOKAHEAD_NS)


def test_an_acts_blocks_run_in_workers_and_those_that_it_has_not_are_of_no_meaning(
    act: Path, tmp_path: Path
) -> None:
    names = ("vision", "policy", "prefill")
    keys = "".join(f"\n[block.{name}]\nworker = true\n" for name in names)
    config = config_without_devices(tmp_path, cameras_of(act), lambda text: text + keys)
    loaded = load(act, config, LOOKAHEAD_NS)
    workers = workers_of(loaded.policy)
    assert workers is not None
    try:
        assert set(workers.status()) == {"vision", "policy"}
        assert all(row["calls"] > 0 for row in workers.status().values())
    finally:
        loaded.policy.close()


def test_an_act_loads_runs_and_every_rung_that_it_has_is_measured(act: Path, tmp_path: Path) -> None:
    config = config_without_devices(tmp_path, cameras_of(act), _ladder(["reuse", "state_only"]))
    loaded = load(act, config, LOOKAHEAD_NS)
    frames = [np.zeros((96, 96, 3), np.uint8)] * 3
    tokens = [loaded.policy.encode_image(i, frame) for i, frame in enumerate(frames)]
    chunk = loaded.policy.sample(loaded.policy.prefill(tokens, 0, np.zeros(6)), generator=np.random.default_rng(0))
    loaded.policy.close()
    assert chunk.shape == (loaded.scheduler.chunk_size, 6) == (8, 6)
    assert [rung.name for rung in loaded.costs_ns] == ["full", "reuse", "state_only"]
    assert loaded.tasks == ("wave", "put the tea bag in the mug, slowly")
