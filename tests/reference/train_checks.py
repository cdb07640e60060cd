"""What vlad train feeds to LeRobot's policies against what LeRobot itself would; runs where LeRobot is.

    python train_checks.py RUN OUT

RUN is the output directory of a run. Prints one JSON object of differences, which tests/reference/test_train.py judges,
and writes OUT/reference.npz: a chunk of the last checkpoint as LeRobot loads and runs it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from vlad.dataset.reader import decode, read_recording, video_moment, video_pattern
from vlad.train import exact_positions, policies, recipe, vision_cache
from vlad.train.frame_cache import frames
from vlad.train.objective import flow_error
from vlad.train.samples import Samples

ROWS = np.array([3, 57, 85])


def main() -> None:
    run, out = (Path(word).resolve() for word in sys.argv[1:])
    plan = recipe.read(run / recipe.NAME)
    recording = read_recording(Path(plan.settings.dataset))
    checkpoint = run / "checkpoints/last/pretrained_model"
    exact_positions.use_exact_positions()
    config = PreTrainedConfig.from_pretrained(checkpoint)
    policy = get_policy_class(config.type).from_pretrained(checkpoint, config=config, strict=True).eval()
    before, after = make_pre_post_processors(config, pretrained_path=str(checkpoint))
    size = policies.picture_size(config, plan.settings)
    held = frames(recording, tuple(config.image_features), size, plan.dataset_sha256, out / "cache")
    batch = Samples(recording, held, config.chunk_size).batch(ROWS)
    native = {camera: originals(recording, camera) for camera in config.image_features}
    found: dict[str, Any] = {"type": config.type}

    if config.type == "smolvla":
        wanted = policy.prepare_images({c: x.float() / 255 for c, x in native.items()})[0]
        got = policy.prepare_images(batch)[0]
        found["pixels"] = difference(wanted, got)
        found["shapes"] = [list(x.shape) for x in got]
        fed = before(dict(batch))
        shape = (len(ROWS), config.chunk_size, config.max_action_dim)
        noise, times = torch.randn(shape), torch.tensor([0.9, 0.5, 0.1])
        with torch.no_grad():
            own, _ = policy.forward(fed, noise=noise, time=times)
            found["loss"] = float(own)
            found["draws"] = abs(float(flow_error(policy, fed, noise, times).square().mean()) - float(own))
            twice = flow_error(policy, fed, noise.repeat_interleave(2, 0), times.repeat_interleave(2))
            found["two_draws"] = abs(float(twice.square().mean()) - float(own))
            policy.requires_grad_(False)
            tokens = vision_cache.tokens(policy, held, size.name, out / "cache")
            embedded = policy.model.vlm_with_expert.embed_image(got[0])
            kept = torch.from_numpy(np.stack([tokens[next(iter(held))][row] for row in ROWS]))
            found["tokens"] = difference([embedded.half()], [kept])
            found["tokens_most"] = float(embedded.abs().max())
            vision_cache.accept_tokens(policy)
            cached, _ = policy.forward(before(Samples(recording, tokens, config.chunk_size).batch(ROWS)),
                                       noise=noise, time=times)  # fmt: skip
            found["cached_loss"] = abs(float(cached) - float(own))
    else:
        found["shapes"] = [list(batch[c].shape) for c in config.image_features]

    own_pictures = native if config.type == "smolvla" else {c: (batch[c] * 255).round() for c in native}
    chunk(policy, (before, after), batch, own_pictures, out)
    print("FOUND" + json.dumps(found))


def chunk(policy: Any, processors: tuple[Any, Any], batch: Any, pictures: dict[str, torch.Tensor], out: Path) -> None:
    """LeRobot's chunk of the first row, and what it was made from, as tests/tiny_smolvla.py reads it."""
    config, state = policy.config, batch["observation.state"][:1]
    saved: dict[str, Any] = {"state_0": state[0].numpy(), "task_0": np.array(batch["task"][0])}
    one: dict[str, Any] = {"observation.state": state, "task": batch["task"][:1]}
    for number, camera in enumerate(config.image_features):
        saved[f"image{number}_0"] = pictures[camera][0].permute(1, 2, 0).to(torch.uint8).numpy()
        one[camera] = pictures[camera][:1].float() / 255
    given = {}
    if config.type == "smolvla":
        given["noise"] = torch.randn(1, config.chunk_size, config.max_action_dim)
        saved["noise_0"] = given["noise"][0].numpy()
    actions = policy.predict_action_chunk(processors[0](one), **given)
    saved |= {"normalised_chunk_0": actions[0].numpy(), "chunk_0": processors[1](actions)[0].numpy()}
    np.savez_compressed(out / "reference.npz", **saved)


def originals(recording: Any, camera: str) -> torch.Tensor:
    """The dataset's own pictures of ROWS, found by seeking in the video."""
    pattern = video_pattern(recording.dataset, recording.info)
    made = []
    for row in ROWS:
        episode = next(e for e in recording.episodes if e.rows.start <= row < e.rows.stop)
        file, start_s = video_moment(recording.dataset, pattern, camera, episode.index, episode.places)
        at_s = start_s + float(recording.columns["timestamp"][row])
        (picture,) = decode(file, {(episode.index, int(row)): at_s}, recording.dataset.rate_hz).values()
        made.append(torch.from_numpy(picture.copy()).permute(2, 0, 1))
    return torch.stack(made)


def difference(wanted: list[torch.Tensor], got: list[torch.Tensor]) -> float:
    return max(float((a.float() - b.float()).abs().max()) for a, b in zip(wanted, got, strict=True))


if __name__ == "__main__":
    main()
