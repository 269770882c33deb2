"""Kernels' machine code: the same as by all of TVM's passes, and generated once for equal kernels."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

import pipeline
from pipeline.compiler import build, codegen
from pipeline.compiler.execute import Executor, LinkedExecutor
from pipeline.compiler.kernel_passes import code_generation, compile_functions
from pipeline.compiler.lower import lower, machine_of
from pipeline.ir.dataflow import Binding, DataflowBuilder, constant, make_constant, with_arguments
from pipeline.ir.program import Program
from pipeline.ir.rewriting import rewrite_bindings
from pipeline.library.constants import ConstantPool
from pipeline.targets import load_target
from tests.models import ModelBuilder, import_test_model

SHAPE = (1, 3, 16, 16)


@pytest.fixture
def int8_program() -> Program:
    b, random = ModelBuilder(), np.random.default_rng(0)
    first, second = (random.standard_normal(s).astype("float32") for s in ((8, 3, 3, 3), (8, 1, 3, 3)))
    hidden = b.node("Relu", b.node("Conv", "x", b.constant(first)))
    scores = b.node("Conv", hidden, b.constant(second), group=8)
    program = import_test_model(b.model({"x": list(SHAPE)}, b.node("Softmax", scores, axis=1)))
    samples = [random.standard_normal(SHAPE).astype("float32") for _ in range(8)]
    return pipeline.quantize(program, samples, effort="none").program


def test_passes_that_are_left_out_change_no_code(int8_program: Program) -> None:
    target = pipeline.load_target("host")
    module = lower(int8_program.module, target.tvm_target(), machine_of(target), ConstantPool())
    for part in codegen.generate_code(module, target.tvm_target()).parts:
        with code_generation():
            by_all_passes = tirx.build(tvm.IRModule(part), target=target.tvm_target())
        ours = compile_functions(part, target.tvm_target())
        assert ours.inspect_source("s") == by_all_passes.inspect_source("s")


def test_kernels_of_a_part_agree_whether_buffers_overlap(int8_program: Program) -> None:
    """TVM would tell LLVM the same of all of them."""
    target = pipeline.load_target("host")
    module = lower(int8_program.module, target.tvm_target(), machine_of(target), ConstantPool())
    kernels = {v: f for v, f in module.functions.items() if isinstance(f, tirx.PrimFunc)}
    for i, (variable, kernel) in enumerate(kernels.items()):
        module.update_func(variable, kernel.with_attr("tirx.noalias", i % 2 == 0))
    parts = codegen.generate_code(module, target.tvm_target()).parts
    said = [{bool(kernel.attrs["tirx.noalias"]) for kernel in part.values()} for part in parts]
    assert all(len(each) == 1 for each in said)
    assert sum(len(part) for part in parts) == len(kernels)


def test_a_library_has_the_code_that_corrections_were_checked_with(
    int8_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codegen, "_objects", {})
    LinkedExecutor(int8_program)
    monkeypatch.setattr(codegen, "compile_functions", lambda *_: pytest.fail("a kernel is compiled again"))
    pipeline.compile_program(int8_program, pipeline.load_target("host"), tmp_path / "model.so")


def built(program: Program, folder: Path) -> bytes:
    return pipeline.compile_program(program, pipeline.load_target("host"), folder / "model.so").read_bytes()


def test_the_program_that_was_checked_last_is_lowered_once(
    int8_program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = built(int8_program, tmp_path)
    LinkedExecutor(int8_program)
    with monkeypatch.context() as patched:
        patched.setattr(build, "lower", lambda *_: pytest.fail("it is lowered again"))
        assert built(int8_program, tmp_path) == expected
    # It isn't kept any longer.
    assert built(int8_program, tmp_path) == expected


def test_a_program_that_was_checked_last_goes_with_the_model_that_is_not_built(int8_program: Program) -> None:
    models = [dataclasses.replace(int8_program) for _ in range(2)]
    for model in models:
        LinkedExecutor(int8_program)
        build.release_with(model)
        del model
    models.pop(0)
    assert build._kept._last is not None
    models.pop()
    assert build._kept._last is None


def test_a_program_of_other_constants_or_names_is_lowered_anew(int8_program: Program, tmp_path: Path) -> None:
    def with_constants(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        if not isinstance(binding.value, relax.Call):
            return None
        arguments = [a if (v := constant(a)) is None else make_constant(v[::-1].copy()) for a in binding.value.args]
        return with_arguments(builder.replaced(binding.value), [builder.replaced(a) for a in arguments])

    def with_names(binding: Binding, builder: DataflowBuilder) -> relax.Expr | None:
        return builder.emit(builder.replaced(binding.value), f"{binding.var.name}.other")

    for visit in (with_constants, with_names):
        other = dataclasses.replace(int8_program, module=rewrite_bindings(int8_program.module, visit))
        expected = built(other, tmp_path)
        LinkedExecutor(int8_program)
        assert built(other, tmp_path) == expected != built(int8_program, tmp_path)


def test_it_gives_the_same_as_a_program_that_is_compiled_in_memory(int8_program: Program) -> None:
    x = {"x": np.random.default_rng(1).standard_normal(SHAPE).astype("float32")}
    found, expected = LinkedExecutor(int8_program).run(x), Executor(int8_program).run(x)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_object_code_needs_no_temporary_folder(int8_program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codegen, "_objects", {})
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    target = load_target("host")
    lowered = lower(int8_program.module, target.tvm_target(), machine_of(target))
    assert codegen.generate_code(lowered, target.tvm_target()).exportable()
    assert codegen._objects


def test_object_code_of_few_kernels_is_kept(int8_program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codegen, "MOST_OBJECTS", 1)
    monkeypatch.setattr(codegen, "_objects", {})
    LinkedExecutor(int8_program)
    assert len(codegen._objects) == 1
