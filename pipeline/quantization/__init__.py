"""From a float program to an int8 one: annotate, calibrate, realize."""
