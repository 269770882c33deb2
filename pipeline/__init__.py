"""ONNX in, int8 shared libraries out: annotate, calibrate, realize and compile with TVM."""
