"""Packs the constants of a product at compile time, in the order in which the loops read them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.kernels.gemm.plan import Plan
from pipeline.kernels.lib import tails

Array = npt.NDArray[Any]


def pack_channels(plan: Plan, values: Array, fill: Any) -> Array:
    """Return per-channel constants, [groups * group_out], in packed order, lanes without a channel filled."""
    return _pack_parts(plan, values, functools.partial(_pack_channels, fill=fill))


def _pack_parts(plan: Plan, values: Array, pack: Callable[[Plan, Array], Array]) -> Array:
    """Return what is packed for each part of a plan, one after another; output channels are the first axis."""
    if len(plan.parts) == 1:
        return pack(plan, values)
    whole, tail = plan.parts
    first, last = values[: whole.geometry.group_out], values[-tail.geometry.group_out :]
    return np.concatenate([pack(whole, first), pack(tail, last)])


def _pack_channels(plan: Plan, values: Array, fill: Any) -> Array:
    channels = plan.channels()
    grouped = values.reshape(plan.geometry.groups, plan.geometry.group_out)
    valid = channels < plan.geometry.group_out
    packed = grouped[:, np.where(valid, channels, 0)]
    return np.where(valid, packed, np.asarray(fill, values.dtype)).astype(values.dtype).reshape(-1)


def pack_weights(plan: Plan, weight: Array, *, in_order: bool = False) -> Array:
    """Return OHWI weights in the order in which the nest reads them; see `nest`.

    Args:
        plan: what to pack for.
        weight: [O,KH,KW,I] or [O,I]. If groups were merged, I is that of the original groups.
        in_order: whether each lane's values stay together, as `InstructionSet.dot_int16` takes them.
    """
    return _pack_parts(plan, weight, functools.partial(_pack_weights, in_order=in_order))


def join_int4(plan: Plan, packed: Array) -> Array:
    """Return packed weights of 4 bits, two in a byte: int8, flat.

    A byte of a run of `plan.int4_run` has a value of the first as many, in its low bits, and one of the next ones.

    Args:
        plan: what they are packed for.
        packed: what `pack_weights` returns, with values in [-8, 7].
    """
    low, high = np.moveaxis(packed.astype("int8").reshape(-1, 2, plan.int4_run), 1, 0)
    return np.asarray(low & 15 | high << 4).reshape(-1)


def _pack_weights(plan: Plan, weight: Array, in_order: bool) -> Array:
    ordered = cut_weights(plan, weight, plan.depth).transpose(0, 2, 1, 3)
    if plan.depth == 1 or in_order:
        return np.ascontiguousarray(ordered).reshape(-1)
    vectors = np.split(ordered, range(plan.isa.lanes, plan.block_channels, plan.isa.lanes), axis=2)
    sets = [plan.isa if v.shape[2] == plan.isa.lanes else plan.isa.half for v in vectors]
    arranged = [isa.arrange(v) for isa, v in zip(sets, vectors, strict=True) if isa is not None]
    return np.concatenate(arranged, axis=-1).reshape(-1)


def cut_weights(plan: Plan, weight: Array, size: int) -> Array:
    """Return weights by channel block, and their segments in pieces: [all blocks, block_channels, pieces, size].

    Args:
        plan: what to pack for.
        weight: as of `pack_weights`.
        size: values in each piece. The last ones of a segment, mostly one, overlap those before, with zeros for their
            values.
    """
    g = plan.geometry
    weight = _block_diagonal(weight, g.group_in // weight.shape[-1], g.group_out)
    rows, columns = g.segments
    length = g.segment_length
    runs = weight.reshape(g.groups, g.group_out, rows * columns, length)
    last = plan.steps_at_end if size == plan.depth else 1
    index = tails.starts(size, length, last)[:, None] + np.arange(size)
    # A piece that overlaps the one before must not count its values again.
    pieces = _taken(runs, index.reshape(-1), tails.fresh(size, length, last).reshape(-1), axis=3)
    channels = plan.channels()
    picked = _taken(pieces, channels, channels < g.group_out, axis=1)
    return picked.reshape(g.groups * plan.blocks, plan.block_channels, -1, size)


def _taken(values: Array, index: Array, valid: Array, axis: int) -> Array:
    """Return the values at an index along an axis, with zeros where it isn't valid."""
    if valid.all() and np.array_equal(index, np.arange(values.shape[axis])):
        return values
    taken = np.take(values, np.where(valid, index, 0), axis)
    np.moveaxis(taken, axis, 0)[~valid] = 0
    return taken


def _block_diagonal(weight: Array, merged: int, group_out: int) -> Array:
    """Return the weights [O,...,merged * I] of groups that each consist of `merged` smaller ones."""
    if merged == 1:
        return weight
    out, inputs = weight.shape[0], weight.shape[-1]
    owner = np.arange(out) % group_out // (group_out // merged)
    own = owner[:, None] == np.arange(merged * inputs) // inputs
    return np.where(own.reshape(out, *(1,) * (weight.ndim - 2), -1), np.tile(weight, merged), 0).astype(weight.dtype)
