"""LeRobot's side of test_policy_latency.py and test_act_latency.py: one chunk per line read, answered with its cost.

    python lerobot_chunks.py DATA THREADS [float32|mixed|bfloat16]

Runs where LeRobot is installed. DATA is a directory of make_checkpoint.py or make_act_checkpoint.py;
a line is the number of a case in it. Each answer is one JSON object: wall_s and cpu_s of
`predict_action_chunk`, the chunk, normalised, peak_gib and ready_s. What the pre-processor does
(tokenising, normalising) is not counted; resizing is, as in `select_action`. `mixed` are the dtypes
that the checkpoint has, `bfloat16` runs all of the policy under torch's autocast. The line `peak` is
answered with the FLOP per CPU second of one large product in that dtype.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "reference"))

from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from lerobot.configs.policies import PreTrainedConfig  # noqa: E402
from lerobot.policies.act.modeling_act import ACTPolicy  # noqa: E402
from lerobot.policies.factory import make_pre_post_processors  # noqa: E402
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy  # noqa: E402
from make_act_checkpoint import batch_of as act_batch_of  # noqa: E402
from make_checkpoint import batch_of, ordered_positions  # noqa: E402
from peak_memory import peak_gib  # noqa: E402  # beside this file
from transformers.models.smolvlm import modeling_smolvlm  # noqa: E402

Saved = dict[str, np.ndarray]
Prepare = Callable[[Saved, int], Callable[[], torch.Tensor]]


def matmul_peak(kind: str) -> float:
    """FLOP per CPU second of a product of the vision block's largest shape."""
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    a, b = torch.ones(1024, 768, dtype=dtype), torch.ones(768, 3072, dtype=dtype)
    costs = []
    with torch.inference_mode():
        for _ in range(12):
            cpu = time.process_time()
            torch.mm(a, b)
            costs.append(time.process_time() - cpu)
    return 2 * 1024 * 768 * 3072 / min(costs)


def smolvla(data: Path, config: PreTrainedConfig, kind: str) -> Prepare:
    modeling_smolvlm.SmolVLMVisionEmbeddings.forward = ordered_positions
    config.vlm_model_name = str(data / "vlm")
    policy = SmolVLAPolicy.from_pretrained(data / "checkpoint", config=config).eval()
    if kind != "mixed":
        policy = policy.float()
    pre, _ = make_pre_post_processors(
        config,
        pretrained_path=str(data / "checkpoint"),
        preprocessor_overrides={"tokenizer_processor": {"tokenizer_name": config.vlm_model_name}},
    )

    def prepare(saved: Saved, case: int) -> Callable[[], torch.Tensor]:
        batch = pre(batch_of(saved, case, list(policy.config.image_features)))
        noise = torch.from_numpy(saved[f"noise_{case}"])[None]
        policy.reset()
        return lambda: policy.predict_action_chunk(batch, noise=noise)

    return prepare


def act(data: Path, config: PreTrainedConfig, kind: str) -> Prepare:
    policy = ACTPolicy.from_pretrained(data / "checkpoint", config=config).eval()
    pre, _ = make_pre_post_processors(config, pretrained_path=str(data / "checkpoint"))

    def prepare(saved: Saved, case: int) -> Callable[[], torch.Tensor]:
        batch = pre(act_batch_of(saved, case, list(policy.config.image_features)))
        return lambda: policy.predict_action_chunk(batch)

    return prepare


def main() -> None:
    started = time.perf_counter()
    data, threads = Path(sys.argv[1]), int(sys.argv[2])
    kind = sys.argv[3] if len(sys.argv) > 3 else "float32"
    torch.set_num_threads(threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    config = PreTrainedConfig.from_pretrained(data / "checkpoint")
    prepare = (act if config.type == "act" else smolvla)(data, config, kind)
    with np.load(data / "reference.npz") as archive:
        saved = {name: archive[name] for name in archive.files}
    precision = torch.autocast("cpu", torch.bfloat16) if kind == "bfloat16" else contextlib.nullcontext()
    ready_s = time.perf_counter() - started
    for line in sys.stdin:
        if line.strip() == "peak":
            print(json.dumps({"flop_per_cpu_s": matmul_peak(kind)}), file=answers, flush=True)
            continue
        one_chunk = prepare(saved, int(line))
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode(), precision:
            chunk = one_chunk()
        cost = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        cost |= {"peak_gib": peak_gib(), "ready_s": ready_s}
        print(json.dumps(cost | {"chunk": chunk[0].float().tolist()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
