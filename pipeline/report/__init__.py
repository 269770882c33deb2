"""Report: what was quantized, what it cost in accuracy, what it gained in time."""
