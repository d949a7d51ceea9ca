"""ONNX files: read from bytes without the `onnx` package, and brought into the program type of `paddle_files`."""
