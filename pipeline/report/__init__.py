"""Reports: what was quantized, what that cost in accuracy and gained in time, as data and as tables for people."""
