"""Names of kernels in programs, libraries and profiles.

    <operator>[_<variant>]_<types>_<shape>__<instruction set>[__<number>]

    conv2d_u8s8_3x3_64x64__avx512_vnni
    conv2d_add_u8s8_1x1_64x256__avx512_vnni__2
    conv2d_depthwise_dot_u8s8_3x3s2_96__avx512_vnni
    conv2d_matrix_u8s8_3x3_64x64__amx_int8
    matmul_u8_197x64x197__avx2
    quantize_f32u8_1x224x224x3__neon

The operator comes without its family: types tell `qnn.conv2d` from `nn.conv2d`. The variant is what distinguishes the
kernel from the operator's others in the table (`registry.KERNELS`). Types are those of activations, weights and result,
each once: u, s and f for unsigned, signed and float, with their bits. The shape is

- of a convolution, its kernel, its stride if that isn't 1, and its channels, in x out, with the number of groups if
  there are several; only the channels of a depthwise one;
- of a dense layer, its channels, in x out; of a matrix product, rows x depth x columns;
- of all others, that of the result.

The instruction set is the one that the kernel was compiled for; which capabilities it was written for, the table says.
Kernels of one program that differ in something else (the size of the image, say) have numbers, from 2 on.
"""

from __future__ import annotations

from pipeline.kernels.isa.contract import InstructionSet
from pipeline.kernels.operation import Operation
from pipeline.ops import Conv2d, Dense, MatMul, QConv2d, QDense, QMatMul


def kernel_name(operation: Operation, variant: str, isa: InstructionSet) -> str:
    """Return a kernel's name without its number; see the module's docstring."""
    what = operation.operator.name.rpartition(".")[2]
    parts = [what, variant, _types(operation), _shape(operation)]
    return "_".join(part for part in parts if part) + f"__{isa.name}"


def _types(operation: Operation) -> str:
    weighted = isinstance(operation.operator, Conv2d | QConv2d | Dense | QDense)
    inputs = [t.dtype for i, t in enumerate(operation.inputs) if i not in operation.constants or (weighted and i == 1)]
    if operation.has_int4_weights:
        inputs[1] = "int4"
    return "".join(dict.fromkeys(_short(dtype) for dtype in [*inputs, operation.output.dtype]))


def _short(dtype: str) -> str:
    """Return a type's short name, such as u8 for uint8."""
    kind = dtype.rstrip("0123456789")
    return {"uint": "u", "int": "s", "float": "f"}.get(kind, kind) + dtype.removeprefix(kind)


def _shape(operation: Operation) -> str:
    operator, inputs = operation.operator, operation.inputs
    if isinstance(operator, Conv2d | QConv2d):
        return _convolution(operator, inputs[1].shape)
    if isinstance(operator, Dense | QDense):
        out, depth = inputs[1].shape
        return f"{depth}x{out}"
    if isinstance(operator, MatMul | QMatMul):
        return "x".join(str(size) for size in (*inputs[0].shape[-2:], operation.output.shape[-1]))
    return "x".join(str(size) for size in operation.output.shape) or "scalar"


def _convolution(operator: Conv2d | QConv2d, weight: tuple[int, ...]) -> str:
    out, height, width, per_group = weight
    stride = "" if operator.strides == (1, 1) else "s" + "x".join(str(s) for s in dict.fromkeys(operator.strides))
    if operator.groups == out > 1 == per_group:
        return f"{height}x{width}{stride}_{out}"
    groups = f"g{operator.groups}" if operator.groups > 1 else ""
    return f"{height}x{width}{stride}_{per_group * operator.groups}x{out}{groups}"
