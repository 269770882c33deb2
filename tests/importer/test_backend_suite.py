"""One of ONNX's own tests for each operator; `python -m tests.importer.backend_suite` runs all of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest

from pipeline.compiler.execute import Executor
from pipeline.importer import import_proto
from tests.importer.backend_suite import Array, Case, Status, cases, difference, merged, run_all

NAMES = """
    abs acos_example acosh_example add_uint16 and_bcast3v2d argmax_negative_axis_keepdims_example
    argmin_negative_axis_keepdims_example asin_example asinh_example atan_example atanh_example
    attention_3d_diff_heads_with_past_and_present batchnorm_example bitshift_left_uint8
    bitwise_and_ui64_bcast_3v1d bitwise_not_3d bitwise_or_ui64_bcast_3v1d bitwise_xor_ui64_bcast_3v1d
    causal_conv_with_state_silu ceil_example celu_float16 center_crop_pad_crop_axes_hwc clip_default_min
    concat_3d_axis_0 conv_with_strides_and_asymmetric_padding convtranspose_group_2 cos_example cosh_example
    cumsum_1d_reverse_exclusive depthtospace_example dequantizelinear_int16 div_int8 dropout_default_old
    dynamicquantizelinear_max_adjusted einsum_scalar elu_default equal_uint16 erf exp_example expand_dim_unchanged
    eyelike_with_dtype flatten_default_axis floor_example gather_2d_indices gather_elements_1
    gathernd_example_int32 gelu_tanh_1 gemm_default_scalar_bias globalaveragepool_precomputed
    globalmaxpool_precomputed greater_uint16 greater_equal_uint16 gridsample_nearest group_normalization_example
    hardsigmoid_default hardswish hardmax_default_axis identity instancenorm_example isinf_negative isnan_float16
    matmul_3d matmulinteger max_int8 maxpool_2d_same_lower maxunpool_export_without_output_shape mean_one_input
    mvn min_int8 mish mod_mixed_sign_int32 mul_int8 neg_example nllloss_NCd1d2_reduction_sum not_3d
    onehot_with_bfloat16_values optional_get_element_tensor or_bcast3v2d prelu_example constant_pad_negative_axes
    pow_types_float32_uint32 quantizelinear_int16 rms_normalization_3d_axis_negative_3_epsilon reciprocal_example
    reduce_l1_keep_dims_example reduce_l2_keep_dims_example reduce_log_sum_desc_axes
    reduce_log_sum_exp_keepdims_example reduce_max_do_not_keepdims_random reduce_mean_keepdims_example
    reduce_min_do_not_keepdims_random reduce_prod_keepdims_example reduce_sum_empty_axes_input_noop_example
    reduce_sum_square_keepdims_example relu reshape_reduced_dims resize_tf_crop_and_resize_extrapolation_value
    reversesequence_time roialign_aligned_true rotary_embedding_no_position_ids_interleaved round
    scatter_elements_with_reduction_max scatternd_max_with_element_indices selu_default shape_example shrink_soft
    sigmoid_example sign sin_example sinh_example size_example slice_neg softmax_default_axis
    sce_mean_no_weight_ii_4d softplus_example softsign_example spacetodepth_dcr_mode_example
    split_equal_parts_default_axis_opset18 sqrt_example squeeze_negative_axes sub_int8 sum_one_input swiglu_alpha
    swish tan_example tanh
""".split()  # noqa: SIM905 - a hundred lines otherwise


def chosen(name: str) -> Case:
    case = cases()[f"test_{name}"]
    return case.bound() if len(case.inputs) > 1 else case


def opset(case: Case) -> int:
    return max(o.version for o in case.model.opset_import)


@cache
def results(version: int) -> Mapping[str, Array]:
    """Return the results of all tests of an operator set, by the test's name and the output's."""
    case = merged([c for c in map(chosen, NAMES) if opset(c) == version])
    program = import_proto(case.model, {n: v.shape for n, v in case.inputs.items()}, case.name, "0" * 64)
    return Executor(program).run(case.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_passes_the_standards_own_test(name: str) -> None:
    case = chosen(name)
    actual = results(opset(case))
    for output, expected in case.outputs.items():
        assert difference(actual[f"{case.name}.{output}"], expected, case) == ""


def test_the_command_tells_a_refusal_from_a_success() -> None:
    found = {r.name: r.status for r in run_all(["test_nonzero_example", "test_relu"], jobs=1)}
    assert found == {"test_nonzero_example": Status.REFUSED, "test_relu": Status.PASS}
