"""Profiles: how long each operator of a library takes, compared with the limits of the machine."""

from pipeline.profiling.profile import OperatorProfile, Profile, profile

__all__ = ["OperatorProfile", "Profile", "profile"]
