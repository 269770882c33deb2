"""Lays a product's constants out at compile time, in the order in which its loops read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.gemm.plan import Plan
from pipeline.kernels.lib import tails
from pipeline.kernels.lib.requantize import FLOAT_OFFSET_BITS, float_offsets

Array = npt.NDArray[Any]


def folded_bias(bias: Array, weight: Array, zero_point: int) -> Array:
    """Return the int32 bias that lets a kernel take x as it is, so that the zero point costs nothing at run time.

    `sum((x - zero_point) * w) = sum(x * w) - zero_point * sum(w)`.
    """
    sums = weight.reshape(weight.shape[0], -1).sum(axis=1, dtype="int64")
    return np.asarray(bias.astype("int64") - zero_point * sums, "int32")


def pack_channels(plan: Plan, values: Array, fill: Any) -> Array:
    """Return per-channel constants, [groups * group_out], in packed order, lanes without a channel filled."""
    channels = plan.channels()
    grouped = values.reshape(plan.geometry.groups, plan.geometry.group_out)
    valid = channels < plan.geometry.group_out
    packed = grouped[:, np.where(valid, channels, 0)]
    return np.where(valid, packed, np.asarray(fill, values.dtype)).astype(values.dtype).reshape(-1)


def pack_sums(plan: Plan, bias: Array, multiplier: Array, *, floats: bool) -> tuple[Array, Array]:
    """Return what accumulators begin with, and what they are scaled with, in packed order.

    Args:
        plan: what to pack for.
        bias: [groups * group_out] int32, with the zero point folded in.
        multiplier: [groups * group_out] float32.
        floats: accumulators are the bits of float32; see `requantize.sums_are_floats`. For each vector of multipliers,
            one of offsets follows.
    """
    if not floats:
        return pack_channels(plan, bias, 0), pack_channels(plan, multiplier, 0.0)
    scaling = [pack_channels(plan, values, 0.0) for values in (multiplier, float_offsets(multiplier))]
    vectors = [values.reshape(-1, plan.isa.lanes) for values in scaling]
    return pack_channels(plan, bias + np.int32(FLOAT_OFFSET_BITS), 0), np.stack(vectors, axis=1).reshape(-1)


def pack_weights(plan: Plan, weight: Array) -> Array:
    """Return OHWI weights in the order in which the nest reads them; see `nest`.

    Args:
        plan: what to pack for.
        weight: [O,KH,KW,I] or [O,I]. If groups were merged, I is that of the original groups.
    """
    g, depth = plan.geometry, plan.depth
    weight = _block_diagonal(weight, g.group_in // weight.shape[-1], g.group_out)
    rows, columns = g.segments
    length = g.segment_length
    runs = weight.reshape(g.groups, g.group_out, rows * columns, length)
    index = tails.starts(depth, length)[:, None] + np.arange(depth)
    # A step that overlaps the one before must not count its values again.
    stepped = np.where(tails.fresh(depth, length), runs[..., np.minimum(index, length - 1)], 0).astype(weight.dtype)
    channels = plan.channels()
    valid = channels < g.group_out
    picked = stepped[:, np.where(valid, channels, 0)] * valid[:, None, None, None].astype(weight.dtype)
    lanes = picked.reshape(g.groups, plan.blocks, plan.tile.nv, plan.isa.lanes, rows * columns, plan.steps, depth)
    ordered = lanes.transpose(0, 1, 4, 5, 2, 3, 6)
    return np.ascontiguousarray(plan.isa.arrange(ordered) if depth > 1 else ordered).reshape(-1)


def _block_diagonal(weight: Array, merged: int, group_out: int) -> Array:
    """Return the weights [O,...,merged * I] of groups that each consist of `merged` smaller ones."""
    out, inputs = weight.shape[0], weight.shape[-1]
    owner = np.arange(out) % group_out // (group_out // merged)
    own = owner[:, None] == np.arange(merged * inputs) // inputs
    return np.where(own.reshape(out, *(1,) * (weight.ndim - 2), -1), np.tile(weight, merged), 0).astype(weight.dtype)
