"""Runs a program in this process, without writing a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from pipeline.compiler.build import library_metadata, lower_for_trial
from pipeline.compiler.codegen import generate_code, in_background
from pipeline.compiler.loaded_kernels import NOTHING, add_nothing, virtual_machines
from pipeline.compiler.lower import lower, machine_of
from pipeline.compiler.threads import use_all_cores
from pipeline.files import temporary_folder
from pipeline.ir.bridge import tensor_type
from pipeline.ir.dataflow import Binding, substitute
from pipeline.ir.program import Program, TensorSpec
from pipeline.library.link import Sections, compile_ahead, link, names_linker
from pipeline.library.metadata import encode_metadata
from pipeline.memory import release_memory
from pipeline.targets import load_target

Array = npt.NDArray[Any]

OPTIMIZATION_LEVEL = 1
"""LLVM's, for kernels that are only run here: generated with vectors and register tiles, they are as fast and compute
the same bytes as with 3, and take a fifth less time to compile."""

AT_ONCE = 2
"""How many threads can run a program of `Executor` at the same time; others wait."""


class Executor:
    """A program, compiled for this machine. Threads may run it at the same time; see `AT_ONCE`.

    Args:
        program: a float or int8 program.
        tensors: variables of its module whose values are wanted beside the outputs.

    Raises:
        ModelError: a tensor of the program can't be computed; see `legalize`.
        TargetError: this machine can run none of the package's targets.
    """

    def __init__(self, program: Program, tensors: Sequence[str] = ()) -> None:
        self._idle: SimpleQueue[relax.VirtualMachine] = SimpleQueue()
        for machine in self._compiled(program.with_more_outputs(tensors) if tensors else program):
            self._idle.put(machine)
        self._inputs = [i.name for i in program.inputs]
        self._outputs = {o.name: number for number, o in enumerate(program.outputs)}
        self._tensors = {name: len(program.outputs) + number for number, name in enumerate(tensors)}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for one batch of inputs by name."""
        return self._chosen(feeds, self._outputs)

    def tensors(self, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        """Return the values of variables, of those that were wanted, by name for one batch of inputs by name."""
        return self._chosen(feeds, {name: self._tensors[name] for name in names})

    @property
    def wanted(self) -> tuple[str, ...]:
        """The variables whose values are wanted beside the outputs."""
        return tuple(self._tensors)

    def has(self, names: Sequence[str]) -> bool:
        """Return whether variables are among those that were wanted."""
        return self._tensors.keys() >= set(names)

    def _compiled(self, program: Program) -> list[relax.VirtualMachine]:
        """Return machines that run the program."""
        target = load_target("host")
        lowered = lower(program.module, target.tvm_target(), machine_of(target))
        return virtual_machines(lowered, target.tvm_target(OPTIMIZATION_LEVEL), AT_ONCE)

    def _chosen(self, feeds: Mapping[str, Array], places: Mapping[str, int]) -> dict[str, Array]:
        arguments = [tvm.runtime.tensor(np.asarray(feeds[name], order="C")) for name in self._inputs]
        use_all_cores()
        machine = self._idle.get()
        try:
            result = machine["main"](*arguments)
            machine[NOTHING]()
        finally:
            self._idle.put(machine)
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return {name: _array(results[place]) for name, place in places.items()}


class LinkedExecutor(Executor):
    """The same, as a library for this machine: one that is built later has its kernels' code already.

    Raises:
        BuildError: linking failed.
    """

    def _compiled(self, program: Program) -> list[relax.VirtualMachine]:
        target = load_target("host")
        lowered = lower_for_trial(program, target)
        code = generate_code(lowered.module, target.tvm_target())
        add_nothing(code.instructions)
        metadata = encode_metadata(library_metadata(program, target, None, ()))
        sections = Sections(*metadata, lowered.constants, compressed=False)
        with temporary_folder("pipeline-linked-") as folder:
            path = folder / "program.so"
            link(code.exportable(), target, sections, path, with_functions=False)
            # The system keeps the file as long as it is loaded.
            return [relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())]


def library_executor(program: Program) -> Executor:
    """Return what executes a program, with the kernels of a library that is going to be built for this machine.

    If the environment names a linker, which may be one for another machine, nothing is linked.
    """
    return Executor(program) if names_linker() else LinkedExecutor(program)


def prepare_library_executors() -> None:
    """Begin to compile, in the background, what all programs of `library_executor` have in common."""
    if not names_linker():
        in_background(lambda: compile_ahead(load_target("host")))


_shared: WeakKeyDictionary[tvm.IRModule, Executor] = WeakKeyDictionary()
"""The last executor of each module that is still in use."""


def shared_executor(program: Program, tensors: Sequence[str] = ()) -> Executor:
    """Return what executes a program: what was returned before for the same program, if it has all these tensors.

    Args:
        program: see `Executor`. As long as its module exists, so does the executor.
        tensors: see `Executor`.
    """
    found = _shared.get(program.module)
    if found is None or not found.has(tensors):
        found = Executor(program, tensors)
        _shared[program.module] = found
    return found


def shared_tensors(program: Program, tensors: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the tensors, beside the outputs, of what `shared_executor` would return for a program and tensors.

    How operators are fused, and so the last bits of float results, may depend on them.
    """
    found = _shared.get(program.module)
    return tuple(tensors) if found is None or not found.has(tensors) else found.wanted


def release_activations() -> None:
    """Give memory that programs have computed in back to the system; those that run again take it anew."""
    tvm.get_global_func("vm.builtin.memory_manager.clear")()
    release_memory()


def operator_executor(binding: Binding) -> Executor:
    """Return what executes one operator of a program, whose inputs are the variables that it reads, by their names.

    Args:
        binding: an operator whose result is one tensor.
    """
    read = {v: relax.Var(v.name, v.ty) for v in binding.reads}
    builder = relax.BlockBuilder()
    with builder.function("main", list(read.values())):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(substitute(binding.value, dict(read))))
        builder.emit_func_output(result)
    inputs, outputs = (tuple(map(_spec, values)) for values in (read, [binding.var]))
    return Executor(Program(builder.get(), inputs, outputs, str(binding.var.name), source_sha256=""))


def _spec(var: relax.Var) -> TensorSpec:
    found = tensor_type(var)
    return TensorSpec(str(var.name), found.shape, found.dtype)


def _array(tensor: tvm.runtime.Tensor) -> Array:
    """Return a tensor's values, without a copy wherever NumPy has the type: calibration asks for all activations."""
    return tensor.numpy() if str(tensor.dtype) == "bfloat16" else np.from_dlpack(tensor)
