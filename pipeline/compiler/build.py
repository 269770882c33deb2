"""Compiles a program for a target and writes it as a shared library."""

from __future__ import annotations

import dataclasses
import re
import threading
import weakref
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import tvm

from pipeline.compiler.codegen import generate_code
from pipeline.compiler.dump import Dump
from pipeline.compiler.lower import lower, machine_of
from pipeline.compiler.records import KernelRecorder
from pipeline.compiler.tuning import TuningDatabase
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.ir.tvm_private.relax import hash_of
from pipeline.kernels.machine import Machine
from pipeline.library.constants import ConstantPool
from pipeline.library.link import Sections, check_library_writable, link
from pipeline.library.metadata import (
    ArtifactMetadata,
    OperatorRecord,
    QuantizationSummary,
    TargetSummary,
    encode_metadata,
)
from pipeline.process_state import one_at_a_time
from pipeline.targets import Target

MOST_CONSTANTS = 2**26
"""Bytes of constants of a program that is kept for the library that is going to be built."""


@one_at_a_time
def compile_program(
    program: Program,
    target: Target,
    path: str | Path,
    quantized: QuantizationSummary | None = None,
    dump: Path | None = None,
    tuned: TuningDatabase | None = None,
) -> Path:
    """Compile a program ahead of time and write it as a shared library.

    Args:
        program: float, or int8 as `realize` returns it.
        target: what to build for.
        path: the library to write.
        quantized: what quantization did, which the library records; None for a float program.
        dump: folder for the program after each phase, and the assembly; None writes neither.
        tuned: measured register tiles to use, see `tuning`; None leaves the choice to the cost model.

    Returns:
        The library's path.

    Raises:
        TableError: the tuning database names a tile that isn't possible for its layer.
        TargetError: the target names an unknown instruction set.
        BuildError: linking failed.
        OptionError: the output can't be written.
    """
    written = Path(path)
    check_library_writable(written)
    machine = machine_of(target)
    if tuned is not None:
        machine = dataclasses.replace(machine, tuned=tuned.choices())
    writer, tvm_target = None if dump is None else Dump(dump), target.tvm_target()
    lowered = _kept.take(_key(program, tvm_target, machine)) if writer is None else None
    lowered = lowered or _lowered(program, tvm_target, machine, writer)
    code = generate_code(lowered.module, tvm_target)
    if writer is not None:
        writer.assembly(code.assembly())
    metadata = library_metadata(program, target, quantized, lowered.operators)
    link(code.exportable(), target, Sections(*encode_metadata(metadata), lowered.constants), written)
    return written


@dataclass(frozen=True)
class LoweredProgram:
    """What a library is made of.

    Attributes:
        module: after all phases of `lower`.
        constants: of its kernels.
        operators: its kernel calls.
    """

    module: tvm.IRModule
    constants: ConstantPool
    operators: tuple[OperatorRecord, ...]


def lower_for_trial(program: Program, target: Target) -> LoweredProgram:
    """Lower a program that corrections are checked with; if it is the one that is built next, it isn't lowered again.

    Raises:
        TargetError: see `compile_program`.
    """
    tvm_target, machine = target.tvm_target(), machine_of(target)
    # What was kept before can go before as much is made again.
    _kept.forget()
    lowered = _lowered(program, tvm_target, machine)
    if lowered.constants.size <= MOST_CONSTANTS:
        _kept.keep(_key(program, tvm_target, machine), lowered)
    return lowered


def release_with(owner: object) -> None:
    """Let the program that `lower_for_trial` has kept go with an object, from which it would be built."""
    weakref.finalize(owner, _kept.forget, _kept.number)


def _lowered(
    program: Program, tvm_target: tvm.target.Target, machine: Machine, dump: Dump | None = None
) -> LoweredProgram:
    pool, recorder = ConstantPool(), KernelRecorder([o.name for o in program.outputs], dump)
    module = lower(program.module, tvm_target, machine, pool, recorder)
    return LoweredProgram(module, pool, recorder.operators)


def _key(program: Program, tvm_target: tvm.target.Target, machine: Machine) -> tuple[object, ...]:
    """Return all that lowering depends on; hashes leave out the names of tensors."""
    flow = Dataflow.of(program.module)
    names = (*flow.params, *(b.var for b in flow.bindings))
    outputs = [o.name for o in program.outputs]
    tiles = sorted(machine.tuned.items())
    return str(tvm_target), machine, tiles, hash_of(program.module), [str(v.name) for v in names], outputs


class _Kept:
    """The last program that was lowered for a trial.

    Attributes:
        number: how many were kept before, and it.
    """

    def __init__(self) -> None:
        # Garbage collection may forget a program at any place of this thread.
        self._lock = threading.RLock()
        self.number = 0
        self._last: tuple[tuple[object, ...], LoweredProgram] | None = None

    def keep(self, key: tuple[object, ...], lowered: LoweredProgram) -> None:
        """Keep a program."""
        with self._lock:
            self._last, self.number = (key, lowered), self.number + 1

    def take(self, key: tuple[object, ...]) -> LoweredProgram | None:
        """Return the program that was kept, and keep it no longer; None if it is another one."""
        with self._lock:
            if self._last is None or self._last[0] != key:
                return None
            (_, lowered), self._last = self._last, None
            return lowered

    def forget(self, number: int | None = None) -> None:
        """Keep nothing, or no longer the program of a number."""
        with self._lock:
            if number in (None, self.number):
                self._last = None


_kept = _Kept()


def library_metadata(
    program: Program, target: Target, quantized: QuantizationSummary | None, operators: tuple[OperatorRecord, ...]
) -> ArtifactMetadata:
    """Return the metadata of a library. It contains no date and no path, so that equal inputs give equal bytes."""
    versions = {name: version(name) for name in ("onnx-int8-pipeline", "apache-tvm", "onnx", "numpy")}
    return ArtifactMetadata(
        model=program.name,
        kind="float32" if quantized is None else "int8",
        inputs=program.inputs,
        outputs=program.outputs,
        target=TargetSummary(**{key: getattr(target, key) for key in TargetSummary.__struct_fields__}),
        versions=versions | {"onnx-int8-pipeline": _without_commit(versions["onnx-int8-pipeline"])},
        model_sha256=program.source_sha256,
        operators=operators,
        schema_version=3 if program.preprocessing is None else 4,
        preprocessing=msgspec.UNSET if program.preprocessing is None else program.preprocessing,
        **({} if quantized is None else msgspec.structs.asdict(quantized)),
    )


def _without_commit(version: str) -> str:
    """Return a version without its suffix for the commit, so that a commit alone doesn't change libraries."""
    return re.split(r"[^0-9.]|\.(?![0-9])", version, maxsplit=1)[0]
