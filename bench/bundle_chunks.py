"""A bundle's side of chunk_report.py: one chunk per line read, answered with its cost.

    python -m bench.bundle_chunks DATA BUNDLE THREADS vlad|plain

DATA is a directory of make_checkpoint.py or make_act_checkpoint.py; a line is the number of a case in it.
`plain` runs the same graphs as anybody would: ONNX Runtime's default session, without vlad's operators. Each
answer is one JSON object: wall_s and cpu_s of the chunk and of its parts, peak_gib, ready_s, and the chunk,
normalised. Resizing counts, as it does for LeRobot.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED_S = time.perf_counter()

import numpy as np  # noqa: E402  # its import is part of getting ready

from bench.peak_memory import peak_gib  # noqa: E402
from tests import tiny_smolvla  # noqa: E402
from vlad import bundle as bundles  # noqa: E402
from vlad.act import ActPolicy  # noqa: E402
from vlad.backend import OnnxRuntimeSession, Session, Threads, load_block  # noqa: E402
from vlad.policy import AnyPolicy, Policy, policy_class  # noqa: E402


def load_plain(bundle: bundles.Bundle, name: str, threads: Threads) -> Session:
    """A block in a session as ONNX Runtime makes it when only the threads are given."""
    import onnxruntime as ort

    class Plain(OnnxRuntimeSession):
        def __init__(self) -> None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = threads.count
            self._session = ort.InferenceSession(str(bundle.file(bundle.block(name).file)), options)
            self._name, self._outputs = name, [value.name for value in bundle.block(name).outputs]

    return Plain()


Saved = dict[str, Any]


def product_peak(policy: AnyPolicy, threads: int) -> float:
    """FLOP per CPU second of a product of the vision block's largest shape, in the dtype of its weights."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    from vlad.backend import FUSED
    from vlad.build.bfloat16 import to_bfloat16

    m, k, n = 1024, 768, 3072
    weight = numpy_helper.from_array(np.ones((k, n), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, k])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, n])
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph([product], "peak", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("vlad", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if policy.bundle.block("vision").dtype == "bfloat16":
        to_bfloat16(model)
        options.register_custom_ops_library(str(FUSED))
    session = ort.InferenceSession(model.SerializeToString(), options)
    values = {"x": np.ones((m, k), np.float32)}
    return 2 * m * k * n / min(timed(lambda: session.run(None, values))[1]["cpu_s"] for _ in range(12))


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    made = call()
    return made, {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def seen(policy: AnyPolicy, made: Saved, case: int) -> tuple[Any, list[Any], dict[str, float]]:
    """State and image tokens of a case, and what the tokens cost."""
    state = tiny_smolvla.DEGREES.to_core(made[f"state_{case}"])
    images = [made[f"image{i}_{case}"] for i in range(len(policy.bundle.manifest.cameras))]
    tokens, vision = timed(lambda: [policy.encode_image(i, image) for i, image in enumerate(images)])
    return state, tokens, vision


def answered(parts: dict[str, dict[str, float]], chunk: Any, joints: int) -> dict[str, Any]:
    """The answer for a chunk whose parts, all of them, cost so much."""
    answer: dict[str, Any] = {key: sum(part[key] for part in parts.values()) for key in ("wall_s", "cpu_s")}
    answer["peak_gib"] = peak_gib()
    return answer | parts | {"chunk": chunk[:, :joints].tolist()}


def act(policy: ActPolicy, made: Saved, case: int) -> dict[str, Any]:
    state, tokens, vision = seen(policy, made, case)
    chunk, rest = timed(lambda: policy.decode(policy.prefill(tokens, 0, state)))
    return answered({"vision": vision, "policy": rest}, chunk, len(policy.bundle.manifest.joints))


def smolvla(policy: Policy, made: Saved, case: int) -> dict[str, Any]:
    state, tokens, vision = seen(policy, made, case)
    noise, task = made[f"noise_{case}"].astype(np.float32), policy.token_ids(str(made[f"task_{case}"]))
    prefix, prefill = timed(lambda: policy.prefill(tokens, task, state))
    chunk, steps = timed(lambda: policy.sample_normalised(prefix, noise))
    parts = {"vision": vision, "prefill": prefill, "steps": steps}
    answer = answered(parts, chunk, len(policy.bundle.manifest.joints))
    return answer | {"refresh": timed(lambda: policy.refresh_state(prefix, state))[1]}


def main() -> None:
    """See above."""
    data, path, threads, how = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    bundle = bundles.load(path, verify=False)
    load = {"vlad": load_block, "plain": load_plain}[how]
    policy = policy_class(bundle)(bundle, intra_threads=threads, load=load)
    policy.warm_up()
    ready_s = time.perf_counter() - STARTED_S
    made = tiny_smolvla.reference(data)
    for line in sys.stdin:
        if line.strip() == "peak":
            print(json.dumps({"flop_per_cpu_s": product_peak(policy, threads)}), file=answers, flush=True)
            continue
        answer = act(policy, made, int(line)) if isinstance(policy, ActPolicy) else smolvla(policy, made, int(line))
        print(json.dumps(answer | {"ready_s": ready_s}), file=answers, flush=True)


if __name__ == "__main__":
    main()
