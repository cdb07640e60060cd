"""Whether this processor runs vlad's own operators for bfloat16 on AMX, or what computes the same more slowly."""

from __future__ import annotations

import platform

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from vlad.backend import CPU_PROVIDER, Threads, session_options
from vlad.build.functions import DOMAIN, VERSION, tiles


def bfloat16_kernels() -> bool:
    """Asked of the runtime itself: a call of the operator, without the function that would take its place. Those
    of aarch64 save memory and not time: what prices them is no AMX.
    """
    import onnxruntime as ort

    if platform.machine() == "aarch64":
        return False

    bits = tiles(np.zeros((32, 16), np.uint16))
    constants = [
        helper.make_tensor("w", TensorProto.BFLOAT16, bits.shape, bits.tobytes(), raw=True),
        numpy_helper.from_array(np.zeros(16, np.float32), "bias"),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, width]) for n, width in (("x", 32), ("y", 16)))
    call = helper.make_node("Linear", ["x", "w", "bias"], ["y"], domain=DOMAIN)
    graph = helper.make_graph([call], "probe", [x], [y], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = session_options("probe", Threads())
    options.log_severity_level = 4  # that it is not there is an answer
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=[CPU_PROVIDER])
    except Exception:  # ONNX Runtime raises classes of its own, derived from Exception alone
        return False
    return True
