"""`vlad tflite`: blocks as int8 `.tflite` files for a neural processing unit. See docs/npu.md."""
