"""Builds the library of loops (probes) that `limits` measures.

It runs as a process of its own, `python -m pipeline.profiling.probe_library LIBRARY OUTPUT`, as the process that
profiles doesn't load the compiler.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import tvm

from pipeline.compiler.kernel_passes import code_generation
from pipeline.errors import ArtifactError, PipelineError, TargetError, unknown_name
from pipeline.kernels.isa import instruction_sets
from pipeline.kernels.probes import copy_probe, peak_probe
from pipeline.library.link import Sections, link
from pipeline.library.metadata import TargetSummary, read_metadata
from pipeline.profiling.limits import CANNOT_BUILD, COPY_BUFFER_BYTES, ProbeSizes
from pipeline.schema import to_json
from pipeline.targets import Target, list_targets, load_target


def build_probes(summary: TargetSummary, path: Path) -> ProbeSizes:
    """Write a library with the functions `peak_int8`, `peak_float32` and `copy`, compiled like a model's kernels.

    Args:
        summary: what the model's library was built for.
        path: the library to write.

    Raises:
        ArtifactError: the model's library was built for an unknown instruction set.
        TargetError: it isn't known how to link for the library's target.
        BuildError: linking failed.
    """
    target = _target(summary)
    known = instruction_sets()
    if summary.instruction_set not in known:
        raise ArtifactError(
            f"The library is damaged: {unknown_name('instruction set', summary.instruction_set, known)}"
        )
    isa = known[summary.instruction_set]
    peaks = {dtype: peak_probe(dtype, isa) for dtype in ("int8", "float32")}
    functions = {f"peak_{dtype}": probe.func for dtype, probe in peaks.items()}
    functions["copy"] = copy_probe(isa, COPY_BUFFER_BYTES)
    module = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    with code_generation():
        link(tvm.compile(module, target.tvm_target()), target, Sections(metadata=b"{}", operators=b""), path)
    return ProbeSizes(
        vector_bytes=4 * isa.lanes,
        buffers={dtype: probe.buffers for dtype, probe in peaks.items()},
        multiply_adds={dtype: probe.multiply_adds for dtype, probe in peaks.items()},
    )


def _target(summary: TargetSummary) -> Target:
    """Return a library's target. Linker settings, which aren't recorded, are those of a target with the same triple."""
    names = Target.__struct_fields__
    fields = {key: value for key, value in msgspec.structs.asdict(summary).items() if key in names}
    listed = [load_target(target.name) for target in list_targets() if target.name != "host"]
    for target in listed:
        if target.triple == summary.triple:
            return msgspec.structs.replace(target, **fields)
    triples = ", ".join(sorted({target.triple for target in listed}))
    raise TargetError(
        f"The library was built for {summary.name} ({summary.triple}), and how to link for that isn't known: no target "
        f"of this package has the triple; they have {triples}."
    )


if __name__ == "__main__":
    try:
        sizes = build_probes(read_metadata(Path(sys.argv[1])).target, Path(sys.argv[2]))
    except PipelineError as problem:
        print(problem, file=sys.stderr)
        sys.exit(CANNOT_BUILD)
    print(to_json(sizes), end="")
