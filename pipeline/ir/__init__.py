"""The intermediate representation: programs, operators, tensor types, and the engine that rewrites programs."""
