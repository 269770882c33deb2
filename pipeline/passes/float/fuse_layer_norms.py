"""FuseLayerNorm: a layer normalization that was exported operator by operator becomes one `nn.layer_norm`.

Before -> after: with `d = x - mean(x)` over the last axis, `d / sqrt(mean(d * d) + epsilon) * gamma + beta` becomes
`nn.layer_norm(x, gamma, beta)`. Models for operator sets before 17 hold it in this form.

Precondition: before PropagateLayout, as it looks for the last axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Dataflow, DataflowBuilder, constant, make_constant

Vector = npt.NDArray[np.float32]


def fuse_layer_norm(module: tvm.IRModule) -> tvm.IRModule:
    """Return the module with layer normalizations as one operator each; see the module's docstring."""
    flow = Dataflow.of(module)
    builder = DataflowBuilder(module)
    matcher = _Matcher(flow)
    for binding in flow.bindings:
        found = matcher.layer_norm(binding.var)
        if found is None:
            builder.copy(binding)
            continue
        x, gamma, beta, epsilon = found
        arguments = (builder.replaced(x), make_constant(gamma), make_constant(beta))
        call = make_call(ops.LayerNorm(epsilon), *arguments)
        builder.values[binding.var] = builder.emit(call, binding.var.name)
    return builder.finish([builder.replaced(o) for o in flow.outputs])


@dataclass(frozen=True)
class _Matcher:
    """Recognizes expressions by the variables that hold them; each method returns None for anything else."""

    flow: Dataflow

    def layer_norm(self, var: relax.Expr) -> tuple[relax.Expr, Vector, Vector, float] | None:
        """Return (x, gamma, beta, epsilon) of `normalized(x) * gamma + beta`."""
        if not isinstance(var, relax.Var) or self._call(var, "relax.add") is None:
            return None
        shape = tensor_type(var).shape
        scaled, beta = self._with_constant(var, "relax.add", shape[-1:])
        normalized, gamma = self._with_constant(scaled, "relax.multiply", shape[-1:])
        found = self._normalized(normalized)
        if found is None or gamma is None or beta is None or tensor_type(found[0]).shape != shape:
            return None
        return found[0], gamma, beta, found[1]

    def _normalized(self, var: relax.Expr | None) -> tuple[relax.Expr, float] | None:
        """Return (x, epsilon) of `centred(x) / sqrt(mean(centred(x) ** 2) + epsilon)`."""
        quotient = self._call(var, "relax.divide")
        root = None if quotient is None else self._call(quotient.args[1], "relax.sqrt")
        if quotient is None or root is None:
            return None
        variance, epsilon = self._with_constant(root.args[0], "relax.add", ())
        x, square = self._centred(quotient.args[0]), self._mean(variance)
        if x is None or square is None or epsilon is None or self._centred(self._root_of(square)) != x:
            return None
        return x, float(epsilon.reshape(()))

    def _centred(self, var: relax.Expr | None) -> relax.Expr | None:
        """Return x of `x - mean(x)`."""
        difference = self._call(var, "relax.subtract")
        if difference is None or self._mean(difference.args[1]) != difference.args[0]:
            return None
        return difference.args[0]

    def _mean(self, var: relax.Expr | None) -> relax.Expr | None:
        """Return x of `mean(x)` over the last axis, which is kept."""
        mean = self._call(var, "relax.mean")
        if mean is None or mean.attrs["axis"] is None or not mean.attrs["keepdims"]:
            return None
        rank = len(tensor_type(mean.args[0]).shape)
        return mean.args[0] if [int(a) % rank for a in mean.attrs["axis"]] == [rank - 1] else None

    def _root_of(self, var: relax.Expr) -> relax.Expr | None:
        """Return x of `x * x` or `x ** 2`."""
        product, power = self._call(var, "relax.multiply"), self._call(var, "relax.power")
        if product is not None and product.args[0] == product.args[1]:
            return product.args[0]
        exponent = None if power is None else constant(power.args[1])
        return power.args[0] if power is not None and exponent is not None and (exponent == 2).all() else None

    def _with_constant(
        self, var: relax.Expr | None, name: str, shape: tuple[int, ...]
    ) -> tuple[relax.Expr | None, Vector | None]:
        """Return the operands of a commutative operator: the variable, and the constant of `shape`, but for ones."""
        call = self._call(var, name)
        for i, argument in enumerate(() if call is None else call.args):
            value = constant(argument)
            if call is not None and value is not None and value.size == np.prod(shape, dtype=int):
                return call.args[1 - i], value.reshape(shape).astype("float32")
        return None, None

    def _call(self, var: relax.Expr | None, name: str) -> relax.Call | None:
        """Return the call that gives a variable its value, if it is one of this operator."""
        binding = self.flow.producers.get(var) if isinstance(var, relax.Var) else None
        return binding.value if binding is not None and binding.operator == name else None
