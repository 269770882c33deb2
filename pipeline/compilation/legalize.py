"""TIR forms of TVM's operators that are better than TVM's own."""

from __future__ import annotations

from typing import Any

from tvm import relax, te

from pipeline.kernels.exponential import exp


def softmax(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """`relax.nn.softmax` in float32 without calls of the C library; others as TVM does it."""
    x = call.args[0]
    if str(x.ty.dtype) != "float32":
        return relax.transform.legalize_ops.nn._nn_softmax(builder, call)
    return builder.call_te(_softmax, x, int(call.attrs["axis"]), primfunc_name_hint="softmax")


def _softmax(x: te.Tensor, axis: int) -> te.Tensor:
    axis %= len(x.shape)
    kept = [size for i, size in enumerate(x.shape) if i != axis]

    def at(indices: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return (*indices[:axis], value, *indices[axis:])

    def without(indices: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*indices[:axis], *indices[axis + 1 :])

    k, j = te.reduce_axis((0, x.shape[axis]), "k"), te.reduce_axis((0, x.shape[axis]), "j")
    largest = te.compute(kept, lambda *i: te.max(x[at(i, k)], axis=k), "largest")
    powers = te.compute(x.shape, lambda *i: exp(x[i] - largest[without(i)]), "powers")
    total = te.compute(kept, lambda *i: te.sum(powers[at(i, j)], axis=j), "total")
    return te.compute(x.shape, lambda *i: powers[i] / total[without(i)], "softmax")


LEGALIZATIONS = {"relax.nn.softmax": softmax}
"""Operator -> its own form."""
