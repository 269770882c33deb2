"""Lower: turns a program into a module of kernels and VM calls, by a list of named phases.

TVM's own operators are legalized and fused while ours are still opaque calls, as TVM's passes expect the block
structure of a schedule in every TIR function, and hand-written kernels don't have it.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm.relax import transform

from pipeline.compiler.center_tensors import center_tensors
from pipeline.compiler.legalize import legalize
from pipeline.compiler.select_kernels import select_kernels
from pipeline.errors import TargetError, unknown_name
from pipeline.kernels.isa import Capability, instruction_sets
from pipeline.kernels.machine import Machine
from pipeline.library.constants import ConstantPool
from pipeline.passes.lowering.fuse_concatenations import fuse_concatenations
from pipeline.passes.lowering.fuse_hard_swishes import fuse_hard_swishes
from pipeline.passes.lowering.fuse_image_inputs import fuse_image_inputs
from pipeline.passes.lowering.fuse_lookups import fuse_lookups
from pipeline.passes.lowering.fuse_residual_adds import fuse_residual_adds
from pipeline.passes.lowering.pick_strided_pixels import pick_strided_pixels
from pipeline.passes.lowering.replace_relax_operators import replace_relax_operators
from pipeline.passes.lowering.replace_sorts import replace_sorts
from pipeline.passes.lowering.separate_padding import separate_padding
from pipeline.passes.lowering.split_batches import split_batches
from pipeline.passes.lowering.split_transposed_convolutions import split_transposed_convolutions
from pipeline.passes.lowering.store_signed import store_signed
from pipeline.passes.lowering.unfold_image_inputs import unfold_image_inputs
from pipeline.passes.lowering.write_halos import write_halos
from pipeline.targets import Target


def machine_of(target: Target) -> Machine:
    """Return what kernels for a target are generated for: its instruction set and its cache sizes.

    Raises:
        TargetError: the target names an unknown instruction set.
    """
    known = instruction_sets()
    if target.instruction_set not in known:
        message = unknown_name("instruction set", target.instruction_set, known)
        raise TargetError(f"Target {target.name}: {message}")
    return Machine(known[target.instruction_set], target.cache.l1d_bytes, target.cache.l2_bytes)


Phase = tuple[str, Callable[[tvm.IRModule], tvm.IRModule]]


def phases(machine: Machine, pool: ConstantPool | None) -> tuple[Phase, ...]:
    """Return the phases from a program to the input of the VM's code generator, in order, each with its name."""
    return (
        ("split_transposed_convolutions", split_transposed_convolutions),
        ("pick_strided_pixels", lambda module: pick_strided_pixels(module, machine.isa)),
        ("replace_relax_operators", replace_relax_operators),
        ("replace_sorts", replace_sorts),
        ("fuse_residual_adds", fuse_residual_adds),
        ("fuse_hard_swishes", fuse_hard_swishes),
        ("fuse_lookups", fuse_lookups if machine.isa.has(Capability.FUSED_LOOKUP) else lambda module: module),
        ("fuse_image_inputs", fuse_image_inputs),
        ("fuse_concatenations", fuse_concatenations),
        ("separate_padding", separate_padding),
        ("write_halos", write_halos),
        ("unfold_image_inputs", lambda module: unfold_image_inputs(module, machine)),
        ("store_signed", store_signed if machine.isa.activation_offset else lambda module: module),
        ("split_batches", lambda module: split_batches(module, machine.l2_bytes)),
        ("legalize", legalize),
        ("annotate_patterns", transform.AnnotateTIROpPattern()),
        ("fuse_operators", transform.FuseOps()),
        ("fuse_tir", transform.FuseTIR()),
        ("reshape_without_copy", transform.RewriteDataflowReshape()),
        ("select_kernels", lambda module: select_kernels(module, machine, pool)),
        ("remove_dead_code", transform.DeadCodeElimination(["main"])),
        ("end_dataflow", transform.ToNonDataflow()),
        ("drop_purity", transform.RemovePurityChecking()),
        ("call_kernels", transform.CallTIRRewrite()),
        ("plan_memory", transform.StaticPlanBlockMemory()),
        ("center_tensors", center_tensors),
        ("allocate_tensors", transform.LowerAllocTensor()),
        ("free_after_use", transform.KillAfterLastUse()),
        ("lower_builtins", transform.LowerRuntimeBuiltin()),
        ("compute_shapes", transform.ComputePrimValue()),
        ("lower_shapes", transform.VMShapeLower()),
        ("name_symbols", transform.AttachGlobalSymbol()),
    )


def lower(
    module: tvm.IRModule,
    target: tvm.target.Target,
    machine: Machine,
    pool: ConstantPool | None = None,
    dump: Callable[[str, tvm.IRModule], None] | None = None,
) -> tvm.IRModule:
    """Return the module after all phases.

    Args:
        module: a program's module.
        target: TVM's target, for the phases that are TVM's own.
        machine: what kernels are generated for.
        pool: collects the constants of a library; None if no library is made. See `select_kernels`.
        dump: called with each phase's name and result.
    """
    return _apply(phases(machine, pool), module, target, dump)


def lower_until_kernels(module: tvm.IRModule, target: tvm.target.Target, machine: Machine) -> tvm.IRModule:
    """Return the module as it is before `select_kernels`: with all operators that will become kernels; see `lower`."""
    steps = phases(machine, None)
    names = [name for name, _ in steps]
    return _apply(steps[: names.index("select_kernels")], module, target, None)


def _apply(
    steps: tuple[Phase, ...],
    module: tvm.IRModule,
    target: tvm.target.Target,
    dump: Callable[[str, tvm.IRModule], None] | None,
) -> tvm.IRModule:
    with tvm.transform.PassContext(opt_level=3), target:
        for name, step in steps:
            module = step(module)
            if dump is not None:
                dump(name, module)
    return module
