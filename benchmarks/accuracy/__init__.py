"""Accuracy beside ONNX Runtime and NNCF: see `benchmarks.accuracy.__main__`."""
