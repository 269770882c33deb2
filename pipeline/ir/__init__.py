"""Programs: tensor types, dataflow, and the bridge to Relax."""
