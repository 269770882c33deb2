"""Writes a quantized program as an ONNX graph.

Images are NHWC in programs and NCHW in ONNX. Each tensor is kept in the form, or the forms, that it was needed in so
far, and a `Transpose` is written only where an operator needs it in another one; those of an imported model come out
as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from pipeline import ops
from pipeline.errors import ModelError
from pipeline.ir.bridge import operator_of, tensor_type
from pipeline.ir.dataflow import Binding, Dataflow, constant
from pipeline.ir.program import Program, TensorSpec
from pipeline.ir.types import QUANTIZED_LIMITS, QuantizationParameters
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.spec import QuantizationSpec, weight_spec
from pipeline.quantization.table import CalibrationTable
from pipeline.quantization.weights import QuantizedWeights, quantize_weights

Array = npt.NDArray[Any]

OPSET, OPSET_OF_4_AND_16_BITS = 17, 21
"""The versions of ONNX's operators: scales per channel need 13, layer normalization 17, and values of 4 or 16 bits 21.
"""

_IR_VERSIONS = {OPSET: 8, OPSET_OF_4_AND_16_BITS: 10}
"""Those of the releases of ONNX with these opsets; a larger one would be refused by runtimes of that time."""

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
"""Orders of axes that make NCHW of NHWC, and NHWC of NCHW."""


@dataclass(frozen=True)
class Written:
    """A result that a converter has written.

    Attributes:
        name: of the ONNX tensor.
        channels_first: whether it is an image [N,C,H,W] where the program has [N,H,W,C].
    """

    name: str
    channels_first: bool = False


Convert = Callable[["Graph"], "Written | list[Written]"]
"""Writes the operator that is the graph's `binding`; a list is a tuple's parts."""


@dataclass
class _Value:
    """A tensor.

    Attributes:
        names: of the ONNX tensors that hold it: "as is", as the program has it, and "channels first".
        parameters: scale and zero point, if it was dequantized from 8 or 16 bits.
    """

    names: dict[str, str]
    parameters: QuantizationParameters | None = None


@dataclass
class _Parts:
    """What the graph is made of so far."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    constants: dict[tuple[str, str, tuple[int, ...], bytes], str] = field(default_factory=dict)


class Graph:
    """The graph while it is written; converters call it.

    Args:
        program: the float program that was realized.
        int8: what it was realized as, which says what is stored in 8 or 16 bits.
        annotation: what became int8, as `realize` returns it.
        table: scales and zero points.

    Attributes:
        binding: the operator that is being written.
        opset: the version of ONNX's operators; what 8 bits need, unless a tensor has 16, or weights have 4.
    """

    binding: Binding

    def __init__(self, program: Program, int8: Program, annotation: Annotation, table: CalibrationTable) -> None:
        self._program = program
        specs = (*(t.spec for t in annotation.tensors), *(o.weights for o in annotation.operators))
        others = any(spec is not None and spec.dtype in ("int4", "int16") for spec in specs)
        self.opset = OPSET_OF_4_AND_16_BITS if others else OPSET
        self._flow = Dataflow.of(program.module)
        self._decisions = {o.name: o for o in annotation.operators if o.precision == "int8"}
        self._parameters = {t.name: table.tensors[annotation.source(t.name)].parameters for t in annotation.tensors}
        self._stored = {str(b.var.name) for b in Dataflow.of(int8.module).bindings if _is_quantized(b.var)}
        self._values: dict[relax.Var, _Value | list[_Value]] = {}
        self._quantized: dict[relax.Var, _Value] = {}
        self._parts = _Parts(taken={spec.name for spec in (*program.inputs, *program.outputs)})

    def write(self, convert: Convert) -> onnx.ModelProto:
        """Write all operators, and return the model.

        Args:
            convert: writes one.

        Raises:
            ModelError: an operator has no form in ONNX yet.
        """
        for var, spec in zip(self._flow.params, self._program.inputs, strict=True):
            self._values[var] = _Value({"as is": spec.name})
        for binding in self._flow.bindings:
            self.binding = binding
            self._values[binding.var] = self._written(binding, convert)
        names = [self._float_name(output) for output in self._flow.outputs]
        return self._model(names)

    @property
    def is_int8(self) -> bool:
        """Whether the operator that is being written computes in int8."""
        return str(self.binding.var.name) in self._decisions

    def as_is(self, expr: relax.Expr) -> str:
        """Return the name of a tensor, a variable or a constant, with its axes as the program has them."""
        value = constant(expr)
        return self.constant(value) if value is not None else self._named(self._read(expr), "as is")

    def channels_first(self, expr: relax.Expr) -> str:
        """Return the name of an image [N,H,W,C] as [N,C,H,W]."""
        value = constant(expr)
        if value is not None:
            return self.constant(value.transpose(TO_CHANNELS_FIRST))
        return self._named(self._read(expr), "channels first")

    def together(self, exprs: Sequence[relax.Expr]) -> tuple[list[str], bool]:
        """Return the names of operands that are broadcast, in one form, and whether that is channels first.

        It is where all activations are images and one of them is known as that.
        """
        variables = [e for e in exprs if isinstance(e, relax.Var)]
        images = all(len(tensor_type(v).shape) == 4 for v in variables)
        if not images or not any("channels first" in self._read(v).names for v in variables):
            return [self.as_is(e) for e in exprs], False
        return [self._broadcast_channels_first(e) for e in exprs], True

    def has_channels_first(self, expr: relax.Expr) -> bool:
        """Return whether a variable is known as an image with its channels first."""
        return isinstance(expr, relax.Var) and "channels first" in self._read(expr).names

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Write a node with one result, and return its name.

        Args:
            operator: ONNX type.
            inputs: names; an empty one is left out.
            name: what the result is called, if that is free; by default as the operator's tensor.
            attributes: of the node.
        """
        return self.nodes(operator, *inputs, count=1, name=name, **attributes)[0]

    def nodes(self, operator: str, *inputs: str, count: int, name: str = "", **attributes: Any) -> list[str]:
        """Write a node with several results; see `node`."""
        results = [self._free(name or str(self.binding.var.name)) for _ in range(count)]
        self._parts.nodes.append(helper.make_node(operator, list(inputs), results, name=results[0], **attributes))
        return results

    def constant(self, value: Array, name: str = "") -> str:
        """Write a constant and return its name.

        Args:
            value: the constant.
            name: what it is called, if that is free; without one, constants that are the same are one.
        """
        value = np.require(value, requirements="C")
        key = (name, str(value.dtype), value.shape, value.tobytes())
        if key not in self._parts.constants:
            free = self._free(name or f"{self.binding.var.name}.constant")
            self._parts.initializers.append(numpy_helper.from_array(value, free))
            self._parts.constants[key] = free
        return self._parts.constants[key]

    def integers(self, values: Sequence[int]) -> str:
        """Write whole numbers, shapes or axes, and return their name."""
        return self.constant(np.array(values, "int64"))

    def quantized_weights(self) -> QuantizedWeights:
        """Return the weights of the operator that is being written, as `realize` quantizes them."""
        _, weight, bias = self.binding.value.args
        values = constant(weight), constant(bias)
        if values[0] is None or values[1] is None:
            raise TypeError("An int8 operator's weights aren't constant")
        return quantize_weights(values[0], values[1], self._input().scales_for(len(values[1])), self._weight_spec())

    def weight_dtype(self) -> np.dtype[Any]:
        """Return what the weights of the operator that is being written are stored as: int8 or int4."""
        four = self._weight_spec().dtype == "int4"
        dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(TensorProto.INT4 if four else TensorProto.INT8)
        return dtype

    def input_scale(self) -> float:
        """Return the scale of the first tensor that an int8 operator reads; its largest if each channel has one."""
        return self._input().scale

    def written_weight_scales(self, quantized: QuantizedWeights) -> Array:
        """Return what the weights of the operator that is being written are multiplied with: [O] float64.

        Runtimes compute convolutions in integers only where the tensors that they read have one scale. So a tensor
        whose channels have a scale each is written with one, its channels multiplied by its `factors`, for which the
        weights of what computes it, and of what reads it, make up.
        """
        scale, output = quantized.scale, self._written_in_channels()
        if self._input().channel_scales:
            scale = scale * self._input().scales_for(len(scale)) / self._input().scale
        return scale if output is None else scale * output.factors

    def saturates(self) -> bool:
        """Return whether the largest quantized values of a result are what limits it from above."""
        return self._written_in_channels() is not None

    def _weight_spec(self) -> QuantizationSpec:
        return self._decisions[str(self.binding.var.name)].weights or weight_spec(per_channel=True)

    def _input(self) -> QuantizationParameters:
        return self._parameters[str(self.binding.value.args[0].name)]

    def _written_in_channels(self) -> QuantizationParameters | None:
        """Return how the result of an int8 operator is stored, if each channel has a scale."""
        name = str(self.binding.var.name)
        parameters = self._parameters.get(name) if self.is_int8 and name in self._stored else None
        return parameters if parameters is not None and parameters.channel_scales else None

    def dequantized(self, stored: Array, scale: Array, axis: int | None, name: str) -> str:
        """Write quantized constants with what makes reals of them, and return the name of these.

        Args:
            stored: int4, int8 or int32.
            scale: of all, or of each index of an axis: float32.
            axis: that axis; None if there is one scale.
            name: of the constants.
        """
        inputs = [self.constant(stored, name), self.constant(scale, f"{name}.scale")]
        if stored.dtype != np.int32:
            inputs.append(self.constant(np.zeros(scale.shape, stored.dtype), f"{name}.zero_point"))
        attributes = {} if axis is None else {"axis": axis}
        return self.node("DequantizeLinear", *inputs, name=f"{name}.dequantized", **attributes)

    def unsupported(self, what: str) -> ModelError:
        """Return the error that says that the operator has no form in ONNX yet."""
        return ModelError(
            f"Tensor {self.binding.var.name!r} can't be written as ONNX: {what}. `pipeline build` makes a "
            "library of the model all the same."
        )

    def _written(self, binding: Binding, convert: Convert) -> _Value | list[_Value]:
        if isinstance(binding.value, relax.TupleGetItem):
            parts = self._values[binding.value.tuple_value]
            if not isinstance(parts, list):
                raise TypeError("A part is taken of what isn't a tuple")
            part: _Value = parts[binding.value.index]
            return part
        written = convert(self)
        if isinstance(written, list):
            return [_Value({_form(w): w.name}) for w in written]
        return self._stored_value(binding, written)

    def _stored_value(self, binding: Binding, written: Written) -> _Value:
        """Return what an operator has computed; rounded to 8 or 16 bits, if it is stored so."""
        name = str(binding.var.name)
        value = _Value({_form(written): written.name})
        if name not in self._stored or name not in self._parameters:
            return value
        parameters = self._parameters[name]
        for known in (self._values.get(a) for a in binding.value.args if isinstance(a, relax.Var)):
            # Axes that moved are the same ONNX tensor.
            if isinstance(known, _Value) and known.parameters == parameters and written.name in known.names.values():
                return _Value(value.names, parameters)
        return self._rounded(value if self._has_weights() else self._times(value, parameters.factors), parameters, name)

    def _has_weights(self) -> bool:
        """Return whether the operator that is being written multiplies channels with constants."""
        return isinstance(operator_of(self.binding.value), ops.Linear)

    def _rounded(self, value: _Value, parameters: QuantizationParameters, name: str) -> _Value:
        """Write the rounding of a tensor to 8 or 16 bits and back."""
        form = "channels first" if "channels first" in value.names else "as is"
        scale = self.constant(np.array(parameters.scale, "float32"), f"{name}.scale")
        zero_point = self.constant(np.array(parameters.zero_point, parameters.dtype), f"{name}.zero_point")
        real, limits = value.names[form], QUANTIZED_LIMITS[parameters.dtype]
        if limits[1] != np.iinfo(parameters.dtype).max:
            # ONNX saturates at the largest integers of a dtype, and ours at less.
            bounds = (self.constant(np.array(limit * parameters.scale, "float32")) for limit in limits)
            real = self.node("Clip", real, *bounds, name=f"{name}.clipped")
        stored = self.node("QuantizeLinear", real, scale, zero_point, name=f"{name}.quantized")
        real = self.node("DequantizeLinear", stored, scale, zero_point, name=f"{name}.dequantized")
        return _Value({form: real}, parameters)

    def _read(self, var: relax.Var) -> _Value:
        """Return a tensor as the operator that is being written reads it."""
        value = self._values[var]
        if isinstance(value, list):
            raise TypeError("A tuple is read as a tensor")
        if value.parameters is not None and not (self.is_int8 and self._has_weights()):
            return self._times(value, 1 / value.parameters.factors)
        if not self.is_int8:
            return value
        # A layer's sums aren't rounded where a function is computed of them before.
        if value.parameters is not None or str(var.name) not in self._parameters:
            return value
        if var not in self._quantized:
            parameters = self._parameters[str(var.name)]
            scaled = self._times(value, parameters.factors)
            self._quantized[var] = self._rounded(scaled, parameters, str(var.name))
        return self._quantized[var]

    def _times(self, value: _Value, factors: Array) -> _Value:
        """Write a product of a tensor's channels with factors; there are none if it has one scale."""
        if not factors.size:
            return value
        form = "channels first" if "channels first" in value.names else "as is"
        shaped = factors.astype("float32").reshape(-1, *(1, 1) * (form == "channels first"))
        return _Value({form: self.node("Mul", value.names[form], self.constant(shaped))})

    def _named(self, value: _Value, form: str) -> str:
        """Return the name of a tensor in a form, in which it is written if it isn't there yet."""
        if form not in value.names:
            (name,) = value.names.values()
            axes = TO_CHANNELS_FIRST if form == "channels first" else TO_CHANNELS_LAST
            value.names[form] = self.node("Transpose", name, name=f"{name}.permuted", perm=axes)
        return value.names[form]

    def _broadcast_channels_first(self, expr: relax.Expr) -> str:
        value = constant(expr)
        if value is None:
            return self.channels_first(expr)
        return self.constant(value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(TO_CHANNELS_FIRST))

    def _float_name(self, output: relax.Expr) -> str:
        value = constant(output)
        if value is not None:
            return self.constant(value)
        found = self._values[output]
        if isinstance(found, list):
            raise TypeError("An output is a tuple")
        return self._named(found, "as is")

    def _free(self, name: str) -> str:
        free, number = name, 0
        while free in self._parts.taken:
            number += 1
            free = f"{name}_{number}"
        self._parts.taken.add(free)
        return free

    def _model(self, names: Sequence[str]) -> onnx.ModelProto:
        """Return the model, its outputs called as the program calls them."""
        parts, program = self._parts, self._program
        computed = {name for node in parts.nodes for name in node.output}
        renamed: dict[str, str] = {}
        for spec, name in zip(program.outputs, names, strict=True):
            if name in computed and name not in renamed:
                renamed[name] = spec.name
            else:
                parts.nodes.append(helper.make_node("Identity", [name], [spec.name], name=spec.name))
        for node in parts.nodes:
            for names_of in (node.input, node.output):
                names_of[:] = [renamed.get(name, name) for name in names_of]
        graph = helper.make_graph(
            parts.nodes, program.name, _infos(program.inputs), _infos(program.outputs), parts.initializers
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=_IR_VERSIONS[self.opset],
            producer_name="onnx-int8-pipeline",
        )


def _form(written: Written) -> str:
    return "channels first" if written.channels_first else "as is"


def _is_quantized(var: relax.Var) -> bool:
    return isinstance(var.ty, relax.TensorType) and tensor_type(var).dtype in QUANTIZED_LIMITS


def _infos(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(s.name, element_type(s.dtype), s.shape) for s in specs]


def element_type(dtype: str) -> int:
    """Return ONNX's number of a dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
