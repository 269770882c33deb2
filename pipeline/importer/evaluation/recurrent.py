"""LSTM, GRU and RNN by the standard's formulas; the reference implementation's own ignore most of the attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference.op_run import OpRun

Array = npt.NDArray[Any]
Function = Callable[[Array], Array]

_FUNCTIONS: Mapping[str, Function] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": np.tanh,
}


class _Recurrent(OpRun):
    """Base of recurrent layers, of one direction or two. A subclass defines what a step computes.

    Sequences of different lengths, and activations with parameters, aren't supported.
    """

    op_domain = ""
    activations_by_default: Sequence[str] = ()

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array | None = None,
        lengths: Array | None = None,
        h: Array | None = None,
        c: Array | None = None,
        p: Array | None = None,
        **attributes: Any,
    ) -> tuple[Array, ...]:
        batch_first = bool(attributes.get("layout"))
        if batch_first:
            x, h, c = x.swapaxes(0, 1), *(None if v is None else v.swapaxes(0, 1) for v in (h, c))
        if lengths is not None and (lengths != len(x)).any():
            raise NotImplementedError("sequences of different lengths")
        directions, rows, hidden = w.shape[0], w.shape[1], r.shape[-1]
        start = np.zeros((directions, x.shape[1], hidden), x.dtype)
        h, c = (start if v is None else v for v in (h, c))
        b = np.zeros((directions, 2 * rows), x.dtype) if b is None else b
        p = np.zeros((directions, 3 * hidden), x.dtype) if p is None else p
        functions = self._functions(directions, attributes)
        outputs = []
        for d in range(directions):
            backwards = d == 1 or attributes.get("direction") == "reverse"
            step = self._step(w[d].T, r[d].T, np.split(b[d], 2), np.split(p[d], 3), functions[d], attributes)
            states = [(h[d], c[d])]
            for row in x[::-1] if backwards else x:
                states.append(step(row, *states[-1]))
            hidden_states = np.stack([s[0] for s in states[1:]])
            outputs.append((hidden_states[::-1] if backwards else hidden_states, *states[-1]))
        y = np.stack([o[0] for o in outputs], axis=1)
        lasts = [np.stack([o[k] for o in outputs]) for k in (1, 2)]
        if batch_first:
            y, lasts = y.transpose(2, 0, 1, 3), [v.swapaxes(0, 1) for v in lasts]
        return tuple(v.astype(x.dtype) for v in (y, *lasts)[: len(self.onnx_node.output)])

    def _functions(self, directions: int, attributes: Mapping[str, Any]) -> list[list[Function]]:
        names = attributes.get("activations") or [*self.activations_by_default] * directions
        unknown = sorted(set(names) - set(_FUNCTIONS))
        if unknown:
            raise NotImplementedError(f"activation {unknown[0]}")
        limit = attributes.get("clip") or np.inf
        count = len(self.activations_by_default)
        # `clip` limits the inputs of gates, but not that of the third activation of an LSTM, of its cell state.
        functions = [_FUNCTIONS[n] if k % count == 2 else _clipped(_FUNCTIONS[n], limit) for k, n in enumerate(names)]
        return [functions[d * count : (d + 1) * count] for d in range(directions)]

    def _step(
        self,
        w: Array,
        r: Array,
        b: Sequence[Array],
        p: Sequence[Array],
        functions: Sequence[Function],
        attributes: Mapping[str, Any],
    ) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
        """Return a function from a step's input, hidden state and cell to the next hidden state and cell.

        Args:
            w: [inputs, gates * hidden].
            r: [hidden, gates * hidden].
            b: two times [gates * hidden], added to the products with w and r.
            p: three times [hidden], the peephole weights of an LSTM's gates i, o and f.
            functions: the activations.
            attributes: the layer's attributes.
        """
        raise NotImplementedError


def _clipped(function: Function, limit: float) -> Function:
    return lambda x: function(np.clip(x, -limit, limit))


class RNN(_Recurrent):
    """`h = f(x W + h R + b)`."""

    activations_by_default = ("Tanh",)

    def _step(self, w: Any, r: Any, b: Any, p: Any, functions: Any, attributes: Any) -> Any:
        del p, attributes
        (f,) = functions
        return lambda x, h, c: (f(x @ w + h @ r + sum(b)), c)


class GRU(_Recurrent):
    """`h = (1 - z) n + z h`, with gates z and r.

    `n = g(x W + (r h) R + b)`, or with `linear_before_reset`, `n = g(x W + r (h R + b))`.
    """

    activations_by_default = ("Sigmoid", "Tanh")

    def _step(self, w: Any, r: Any, b: Any, p: Any, functions: Any, attributes: Any) -> Any:
        del p
        f, g = functions
        product_first = attributes.get("linear_before_reset")
        (r_z, r_r, r_n), (b_z, b_r, b_n) = np.split(r, 3, axis=1), np.split(b[1], 3)

        def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
            x_z, x_r, x_n = np.split(x @ w + b[0], 3, axis=1)
            z, reset = f(x_z + h @ r_z + b_z), f(x_r + h @ r_r + b_r)
            n = g(x_n + (reset * (h @ r_n + b_n) if product_first else (reset * h) @ r_n + b_n))
            return (1 - z) * n + z * h, c

        return step


class LSTM(_Recurrent):
    """`c = f c + i g(n)` and `h = o h(c)`."""

    activations_by_default = ("Sigmoid", "Tanh", "Tanh")

    def _step(self, w: Any, r: Any, b: Any, p: Any, functions: Any, attributes: Any) -> Any:
        f, g, shown = functions

        def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
            i, o, forget, n = np.split(x @ w + h @ r + sum(b), 4, axis=1)
            i = f(i + p[0] * c)
            forget = 1 - i if attributes.get("input_forget") else f(forget + p[2] * c)
            c = forget * c + i * g(n)
            return f(o + p[1] * c) * shown(c), c

        return step
