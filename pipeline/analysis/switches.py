"""A float program in which each tensor, and each layer, can be quantized on its own: one compilation for all of them.

Everything that quantization rounds is there twice, as it is and rounded to 8 bits and back, and an input of the program
says which one counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, operator_of
from pipeline.ir.dataflow import Binding, Dataflow, DataflowBuilder, constant, make_constant, with_arguments
from pipeline.ir.program import Program, TensorSpec
from pipeline.ir.types import QuantizationParameters
from pipeline.quantization.annotation import Annotation, OperatorDecision
from pipeline.quantization.channel_scales import multiplied
from pipeline.quantization.rules import Role, activations, kind_of, role_of
from pipeline.quantization.spec import weight_spec
from pipeline.quantization.table import CalibrationTable
from pipeline.quantization.weights import quantize_weights

TENSOR, WEIGHTS, LAYER = "tensor", "weights", "layer"
"""What can be quantized alone: a tensor for all that read it; a layer's weights and bias; a layer, that is its weights
and what it reads, for it alone."""


@dataclass(frozen=True)
class Part:
    """What can be quantized alone.

    Attributes:
        kind: `TENSOR`, `WEIGHTS` or `LAYER`.
        name: of the tensor, or of the layer, which is that of the tensor that it computes.
        operator: type of the layer, or of what computes the tensor.
        readers: names of the operators that have to stay in float for it to stay so.
    """

    kind: str
    name: str
    operator: str
    readers: tuple[str, ...]

    def __str__(self) -> str:
        """Return what it is, for messages: `the weights of layer 'conv1'`."""
        return {
            TENSOR: f"tensor {self.name!r}",
            WEIGHTS: f"the weights of layer {self.name!r}",
            LAYER: f"layer {self.name!r}",
        }[self.kind]


@dataclass(frozen=True)
class Switches:
    """What can be switched: a switch is an input of a program, bool, a scalar.

    Attributes:
        parts: what can be quantized alone, in order of execution, and the names of the switches for that.
        switches: names of all switches.
    """

    parts: Mapping[Part, tuple[str, ...]]
    switches: tuple[str, ...]

    def feeds(self, inputs: Mapping[str, Any], *parts: Part) -> dict[str, Any]:
        """Return the program's inputs with some parts quantized, or nothing."""
        on = {name for part in parts for name in self.parts[part]}
        return {**inputs, **{name: np.array(name in on) for name in self.switches}}


@dataclass(frozen=True)
class SwitchedProgram(Switches):
    """A program that has an input more for each switch.

    Attributes:
        program: the program.
    """

    program: Program


def with_switches(
    program: Program,
    annotation: Annotation,
    table: CalibrationTable,
    realized: Program | None = None,
    layers: bool = True,
) -> SwitchedProgram:
    """Return a float program with switches.

    Args:
        program: the float program.
        annotation: what becomes int8.
        table: scales and zero points.
        realized: the program as corrections have left it, of which layers have their weights where these are quantized;
            None means the float program itself.
        layers: whether what a layer reads can be quantized for it alone; a program without that takes less time.
    """
    return _Switching(program, annotation, table, realized or program, layers).run()


class _Switching:
    """One walk over the program."""

    def __init__(
        self, program: Program, annotation: Annotation, table: CalibrationTable, realized: Program, layers: bool
    ) -> None:
        self.program, self.layers = program, layers
        self.flow = Dataflow.of(program.module)
        self.corrected = {str(b.var.name): b for b in Dataflow.of(realized.module).bindings}
        self.decisions = {o.name: o for o in annotation.operators if o.precision == "int8"}
        self.sources = {t.name: annotation.source(t.name) for t in annotation.tensors}
        self.parameters = {name: table.tensors[source].parameters for name, source in self.sources.items()}
        self.parts: dict[Part, tuple[str, ...]] = {}
        # Inputs come first, so it has to be known beforehand how many switches there will be.
        names = [f"switch {i}" for i in range((1 + layers) * len(self.decisions) + len(self.sources))]
        self.unused = {name: relax.Var(name, relax.TensorType((), "bool")) for name in names}
        self.switches = dict(self.unused)
        self.builder = DataflowBuilder(program.module, params=[*self.flow.params, *self.switches.values()])

    def run(self) -> SwitchedProgram:
        for var in self.flow.params:
            self.builder.values[var] = self.switched_tensor(var, var, "input")
        for binding in self.flow.bindings:
            decision = self.decisions.get(str(binding.var.name))
            if decision is not None and role_of(binding) is Role.COMPUTE:
                result = self.switched_layer(binding, decision)
            else:
                result = self.builder.emit(self.builder.replaced(binding.value), str(binding.var.name))
            self.builder.replace(binding.var, self.switched_tensor(binding.var, result, kind_of(binding)))
        specs = tuple(TensorSpec(name, (), "bool") for name in self.switches)
        program = dataclasses.replace(self.program, module=self.builder.finish(), inputs=(*self.program.inputs, *specs))
        return SwitchedProgram(self.parts, tuple(self.switches), program)

    def switched_tensor(self, var: relax.Var, value: relax.Var, operator: str) -> relax.Var:
        """Return a tensor, or that rounded to 8 bits; what shares another's scale has no switch of its own."""
        name = str(var.name)
        readers = self.readers(name)
        if self.sources.get(name) != name or not readers:
            return value
        switch = self.switch()
        self.parts[Part(TENSOR, name, operator, readers)] = (str(switch.name),)
        return self.choice(switch, self.rounded(value, self.parameters[name], name), value, name)

    def switched_layer(self, binding: Binding, decision: OperatorDecision) -> relax.Var:
        """Return a layer's result with what it reads, and its weights, rounded or not."""
        name = str(binding.var.name)
        own: tuple[str, ...] = (name,)
        arguments = [self.builder.replaced(a) for a in binding.value.args]
        switches: tuple[str, ...] = ()
        if self.layers:
            read = self.switch()
            switches = (str(read.name),)
            for i, argument in enumerate(binding.value.args):
                if isinstance(argument, relax.Var):
                    rounded = self.rounded(arguments[i], self.parameters[str(argument.name)], name)
                    arguments[i] = self.choice(read, rounded, arguments[i], name)
        result = self.builder.emit(with_arguments(binding.value, arguments), name)
        if isinstance(operator_of(binding.value), ops.Linear):
            weights = self.switch()
            arguments[1:3] = self.rounded_weights(binding, decision)
            rounded = self.builder.emit(with_arguments(binding.value, arguments), name)
            result = self.choice(weights, rounded, result, name)
            self.parts[Part(WEIGHTS, name, kind_of(binding), own)] = (str(weights.name),)
            switches += (str(weights.name),)
        if self.layers:
            self.parts[Part(LAYER, name, kind_of(binding), own)] = switches
        return result

    def rounded_weights(self, binding: Binding, decision: OperatorDecision) -> list[relax.Expr]:
        """Return weights and bias, quantized and back."""
        _, weight, bias = (constant(a) for a in self.corrected[str(binding.var.name)].value.args)
        if weight is None or bias is None:
            raise TypeError("An int8 layer's weights aren't constant")
        input_scale = self.parameters[str(binding.value.args[0].name)].scales_for(len(bias))
        spec = decision.weights or weight_spec(per_channel=True)
        quantized = quantize_weights(weight, bias, input_scale, spec)
        scale = quantized.scale.reshape(-1, *(1,) * (weight.ndim - 1))
        reals = quantized.weight * scale, quantized.bias * (input_scale * quantized.scale)
        return [make_constant(r.astype("float32")) for r in reals]

    def readers(self, name: str) -> tuple[str, ...]:
        """Return the int8 operators that read a tensor, or what only moves its values."""
        found = []
        for binding in self.flow.bindings:
            own = str(binding.var.name)
            read = {self.sources.get(str(v.name)) for v in activations(binding)}
            if own in self.decisions and name in read and self.sources.get(own) != name:
                found.append(own)
        return tuple(found)

    def rounded(self, value: relax.Var, parameters: QuantizationParameters, name: str) -> relax.Var:
        """Write a tensor's rounding to 8 bits and back."""
        value = multiplied(self.builder, value, parameters.factors, name)
        stored = self.builder.emit(make_call(ops.Quantize.of(parameters), value), f"{name}.quantized")
        dequantize = ops.Dequantize(scale=parameters.scale, zero_point=parameters.zero_point)
        real = self.builder.emit(make_call(dequantize, stored), f"{name}.dequantized")
        return multiplied(self.builder, real, 1 / parameters.factors, name)

    def choice(self, switch: relax.Var, on: relax.Expr, off: relax.Expr, name: str) -> relax.Var:
        return self.builder.emit(relax.op.where(switch, on, off), f"{name}.switched")

    def switch(self) -> relax.Var:
        """Return a switch that isn't used yet."""
        return self.unused.pop(next(iter(self.unused)))
