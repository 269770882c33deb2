"""How depthwise convolutions are cut into dot products, bands of channels and vectors."""

from __future__ import annotations

from collections import Counter

from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.kernels.depthwise.plan import Plan
from pipeline.kernels.gemm.geometry import Geometry
from pipeline.kernels.isa import Capability, instruction_set, instruction_sets
from pipeline.kernels.machine import Machine

INSTRUCTION_SETS = sorted(name for name, isa in instruction_sets().items() if isa.has(Capability.LANE_DOT_PRODUCTS))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a convolution, and plan it."""
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    out = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    height, width = ((o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, strides, dilation, kernel, strict=True))
    channels = draw(st.integers(2, 200))
    isa = instruction_set(draw(st.sampled_from(INSTRUCTION_SETS)))
    plan = Plan.choose(Geometry(1, height, width, channels, 1, 1, kernel, strides, dilation, *out), Machine(isa))
    assume(plan is not None)
    assert plan is not None
    return plan


@given(plan=plans())
def test_products_have_each_tap_once(plan: Plan) -> None:
    taps = Counter(tap for product in plan.products() for tap in product.taps if tap)
    rows, columns = plan.geometry.kernel
    assert taps == Counter((row, column) for row in range(rows) for column in range(columns))


@given(plan=plans(), rows=st.integers(1, 9))
def test_going_down_the_rows_sums_all_products_of_each_output(plan: Plan, rows: int) -> None:
    products, stride = plan.products(), plan.geometry.strides[0]
    summed: dict[int, Counter[int]] = {row: Counter() for row in range(rows)}
    above = [(0, offset) for offset in range(plan.fresh_rows.start)]
    for first, offset in above + [(first, offset) for first in range(rows) for offset in plan.fresh_rows]:
        for use in plan.uses(offset, rows - first):
            for output, number in use.products:
                top = output * stride
                wanted = [tap and (top + tap[0], tap[1]) for tap in products[number].taps]
                assert all(tap in (None, loaded) for tap, loaded in zip(wanted, use.taps, strict=True))
                summed[first + output][number] += 1
    assert all(summed[row] == Counter(range(len(products))) for row in range(rows))


@given(plan=plans())
def test_bands_have_all_channels_in_whole_vectors(plan: Plan) -> None:
    channels = [channel for band in plan.bands for channel in range(band.first, band.first + band.channels)]
    assert channels == list(range(plan.geometry.groups))
    for band in plan.bands:
        assert set(band.channel_order().flat) == set(range(band.first, band.first + band.channels))
        assert band.pixels <= plan.geometry.out_width
        assert band.values == plan.vector if plan.pieces(band) > 1 else band.values >= plan.vector
