"""Which instruction sets there are to test, and how this machine runs each: derived from the package's own lists."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Hashable, Sequence

import pytest
import tvm

from pipeline.cpu import LIMIT_VARIABLE, architecture, missing_features
from pipeline.kernels.isa import InstructionSet, instruction_set, instruction_sets
from pipeline.targets import Target, list_targets, load_target
from tests.kernels.amx import emulated_amx
from tests.kernels.execution import Execute, execute_emulated, execute_here
from tests.runtime.emulation import why_missing

EMULATED_ARCHITECTURE = "aarch64"

OTHER_ENCODINGS = {"avx_vnni": "avx512_vnni"}
"""Instruction sets whose instructions are part of another one, too: AVX-VNNI's came with AVX512."""


@dataclasses.dataclass(frozen=True)
class Runnable:
    """An instruction set that this machine can run: its own, or emulated.

    Attributes:
        isa: to generate kernels for.
        target: to compile them for; it has no more than they need.
        execute: compiles kernels and calls them.
    """

    isa: InstructionSet
    target: tvm.target.Target
    execute: Execute = execute_here


def targets_with(isa_name: str) -> tuple[Target, ...]:
    """Return the package's targets whose CPUs have an instruction set: this machine's, Linux, and the least first."""
    wanted = {isa_name, OTHER_ENCODINGS.get(isa_name)}
    plain = (load_target(listing.name) for listing in list_targets() if listing.name != "host")
    found = [target for target in plain if wanted & _lineage(target)]

    def rank(target: Target) -> tuple[bool, bool, bool, int]:
        elsewhere = target.architecture != architecture(), "linux-gnu" not in target.triple
        return *elsewhere, isa_name not in _lineage(target), len(target.required_features)

    return tuple(sorted(found, key=rank))


def compile_target(isa_name: str) -> tvm.target.Target:
    """Return the least target that has an instruction set, whether or not this machine can run it."""
    return targets_with(isa_name)[0].tvm_target()


def _lineage(target: Target) -> set[str]:
    return {isa.name for isa in instruction_set(target.instruction_set).lineage()}


@functools.cache
def why_not(isa_name: str) -> str | None:
    """Return what this machine lacks to run an instruction set's own instructions; None if nothing."""
    candidates = targets_with(isa_name)
    here = [target for target in candidates if target.architecture == architecture()]
    if not here:
        return f"{isa_name} needs a CPU of {candidates[0].architecture}, this is {architecture()}"
    lacking = [missing_features(target.architecture, target.required_features) for target in here]
    if not all(lacking):
        return None
    limit = os.environ.get(LIMIT_VARIABLE)
    why = f"{LIMIT_VARIABLE} is {limit}" if limit else "QEMU has neither AVX-512 nor AVX-VNNI"
    return f"{isa_name} needs a CPU with {', '.join(lacking[0])}; {why}"


def runnable_names() -> Sequence[str]:
    """Return the instruction sets that this machine can run, its own or emulated, the least first."""
    return tuple(name for name in instruction_sets() if why_not(name) is None or _emulated(name))


def _emulated(isa_name: str) -> bool:
    parent = instruction_set(isa_name).parent
    return isa_name == "amx_int8" and parent is not None and why_not(parent.name) is None


@functools.cache
def runnable(isa_name: str) -> Runnable:
    """Return how to run an instruction set on this machine; skip the test where neither CPU nor emulation can."""
    reason = why_not(isa_name)
    if reason is None:
        target = next(t for t in targets_with(isa_name) if not missing_features(t.architecture, t.required_features))
        return Runnable(instruction_set(isa_name), target.tvm_target())
    parent = instruction_set(isa_name).parent
    if _emulated(isa_name) and parent is not None:
        return Runnable(emulated_amx(), runnable(parent.name).target)
    if targets_with(isa_name)[0].architecture == EMULATED_ARCHITECTURE != architecture():
        if missing := why_missing():
            pytest.skip(missing)
        return Runnable(instruction_set(isa_name), compile_target(isa_name), execute_emulated)
    pytest.skip(reason)


def distinct(key: Callable[[InstructionSet], Hashable]) -> Sequence[str]:
    """Return names of instruction sets to test, the least first: one of each architecture for each value of `key`.

    An emulated architecture's are left out where the instruction sets of this one are limited: they are the same then.
    """
    architectures = {architecture()}
    if LIMIT_VARIABLE not in os.environ:
        architectures.add(EMULATED_ARCHITECTURE)
    found: dict[Hashable, str] = {}
    for isa in instruction_sets().values():
        (first, *_) = targets_with(isa.name)
        if first.architecture in architectures:
            found.setdefault((first.architecture, key(isa)), isa.name)
    return tuple(found.values())
