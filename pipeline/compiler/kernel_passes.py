"""Compiles TIR functions to LLVM modules, by those of TVM's passes that kernels for CPUs need.

TVM's own list has three times as many. Those left out are for GPUs, for schedules that its CPU functions don't have, or
repeat what another one does: on all of our kernels they change nothing, and take an eighth of the time to compile.
Those that lower blocks run on TVM's own functions only, as ours don't have blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import s_tir, tirx
from tvm.tirx.compilation_pipeline import finalize_device_passes, finalize_host_passes, register_tir_pipeline

_NAME = "pipeline_kernels"


def code_generation() -> tvm.transform.PassContext:
    """Return the context in which kernels are compiled.

    Three of TVM's passes are off. Storage rewriting drops the annotations of kernels' buffers, which would then be on
    the heap instead of in registers. Elimination of common subexpressions takes time, and LLVM does it anyway. Checks
    of arguments would be half the code of a small kernel; the VM checks a program's inputs, and all other tensors have
    the shapes that it has planned.
    """
    config = {"tirx.disable_storage_rewrite": True, "tirx.disable_cse_tir": True, "tirx.disable_assert": True}
    return tvm.transform.PassContext(opt_level=3, config=config)


def compile_functions(functions: Mapping[str, tirx.PrimFunc], target: tvm.target.Target) -> tvm.runtime.Module:
    """Return an LLVM module of functions, which have these names in it.

    Threads may compile at the same time: TVM and LLVM don't hold Python's lock.
    """
    named = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
    # Each thread has its own context.
    with code_generation():
        return tirx.build(tvm.IRModule(named), target=target, pipeline=_NAME)


def _lower_blocks(module: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
    """Lower functions of TVM, which consist of blocks, like schedules; buffers become as small as they can be."""
    del context
    blocks, functions = s_tir.transform, module.functions.items()
    of_blocks = tvm.IRModule({v: f for v, f in functions if f.attrs is not None and "s_tir" in f.attrs})
    if len(of_blocks.functions) == 0:
        return module
    passes = (
        blocks.CanonicalizeLoop(),
        blocks.LowerInitBlock(),
        blocks.PlanAndUpdateBufferAllocationLocation(),
        blocks.ConvertBlocksToOpaque(),
        blocks.CompactBufferAllocation(),
        blocks.LowerMatchBuffer(),
    )
    lowered = tvm.ir.transform.Sequential(passes)(of_blocks)
    return tvm.IRModule({**module.functions, **lowered.functions}, attrs=module.attrs)


def _passes() -> tuple[tvm.transform.Pass, ...]:
    blocks, loops = s_tir.transform, tirx.transform
    return (
        tvm.transform.module_pass(_lower_blocks, opt_level=0, name="LowerBlocks"),
        # What is left of blocks are annotations of loops.
        blocks.StmtSimplify(),
        blocks.LowerOpaqueBlock(),
        # Buffers become flat, indices 32 bits where these suffice, and loops what LLVM has instructions for.
        loops.FlattenBuffer(),
        loops.BF16ComputeLegalize(),
        loops.NarrowDataType(32),
        blocks.LoopPartition(),
        loops.VectorizeLoop(True),
        loops.UnrollLoop(),
        blocks.RenormalizeSplitPattern(),
        loops.StmtSimplify(),
        blocks.RewriteUnsafeSelect(),
        loops.FP8ComputeLegalize(),
        # Functions get the runtime's calling convention.
        loops.VerifyMemory(),
        loops.AnnotateEntryFunc(),
        loops.SplitHostDevice(),
        loops.MakePackedAPI(),
        loops.FP8StorageLegalize(),
        loops.BF16StorageLegalize(),
    )


def _pipeline() -> tuple[object, object, object]:
    return tvm.ir.transform.Sequential(_passes()), finalize_host_passes, finalize_device_passes


register_tir_pipeline(_NAME, _pipeline)
