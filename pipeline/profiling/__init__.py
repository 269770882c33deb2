"""Profile: how long each operator of a library takes here, next to what this machine can do at most."""

from pipeline.profiling.profile import OperatorProfile, Profile, profile

__all__ = ["OperatorProfile", "Profile", "profile"]
