"""Evaluation of ONNX with its own reference implementation, corrected where it errs."""
