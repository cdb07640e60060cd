"""vlad: a real-time runtime for vision-language-action policies on a robot arm's own board."""

import os

__version__ = "0.1.0"

# The official ONNX Runtime wheels of 1.29 and later send usage data to their vendor, from a database
# that they open when they are imported (microsoft/onnxruntime#27379). Read at that import only; a user who
# sets the variable is left to it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
