"""Unrolls recurrent layers (RNN, GRU, LSTM) for sequences of known length.

Before -> after: `LSTM(x, w, r, b)` becomes, for each direction, one matrix product of all steps' inputs with w, then
for each step a matrix product of the state with r, and the gates' functions. The formulas are the ONNX standard's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import FunctionProto, NodeProto, helper, numpy_helper

Array = npt.NDArray[Any]

RECURRENT = frozenset({"GRU", "LSTM", "RNN"})

MAX_STEPS = 256
"""Longest sequence that is unrolled: each step is compiled separately, so longer ones would take many minutes."""

_OPSET = 13
_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
_ACTIVATIONS = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "RNN": ("Tanh",)}
_WITHOUT_PARAMETERS = frozenset({"Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"})
_INPUTS = ("x", "w", "r", "b", "lengths", "h", "c", "p")
_OUTPUTS = ("y", "y_h", "y_c")


def unroll(node: NodeProto, shape: Sequence[int], given: Sequence[bool], full_length: bool) -> FunctionProto | None:
    """Return a recurrent layer as a function of other operators; None if it has a form that can't be unrolled.

    Args:
        node: a GRU, LSTM or RNN.
        shape: shape of its first input: [steps, batch, features], or [batch, steps, features] with layout 1.
        given: for each of its inputs, whether it is there.
        full_length: whether all sequences of the batch are known to have as many steps as the input.
    """
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    layout = attributes.get("layout", 0)
    direction = attributes.get("direction", b"forward").decode()
    directions = 2 if direction == "bidirectional" else 1
    names = [a.decode() for a in attributes.get("activations", ())] or [*_ACTIVATIONS[node.op_type]] * directions
    steps, batch = (shape[1], shape[0]) if layout else (shape[0], shape[1])
    if (
        not full_length
        or not 0 < steps <= MAX_STEPS
        or not _WITHOUT_PARAMETERS.issuperset(names)
        or "hidden_size" not in attributes
    ):
        return None
    present = dict(zip(_INPUTS, [*given, *[False] * 8], strict=False))
    cell = _Cell(node.op_type, _Nodes(), attributes, present, steps, batch)
    x = cell.nodes.add("Transpose", "x", perm=[1, 0, 2]) if layout else "x"
    count = len(names) // directions
    results = [
        cell.direction(x, d, names[d * count : (d + 1) * count], backwards=d == 1 or direction == "reverse")
        for d in range(directions)
    ]
    cell.finish(results, layout)
    formal_in, formal_out = list(_INPUTS[: len(node.input)]), list(_OUTPUTS[: len(node.output)])
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_function("", node.op_type, formal_in, formal_out, cell.nodes.made, opsets)


@dataclass
class _Nodes:
    """Collects the nodes of the function; each method adds one and returns the name of its result."""

    made: list[NodeProto] = field(default_factory=list)

    def add(self, op_type: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        output = name or f"t{len(self.made)}"
        self.made.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Array) -> str:
        return self.add("Constant", value=numpy_helper.from_array(value))

    def split(self, x: str, parts: int, axis: int) -> list[str]:
        outputs = [f"t{len(self.made)}.{k}" for k in range(parts)]
        self.made.append(helper.make_node("Split", [x], outputs, axis=axis))
        return outputs


State = tuple[str, ...]
"""Names of the tensors that hold the hidden state and, for an LSTM, the cell state: [batch, hidden] each."""


@dataclass(frozen=True)
class _Cell:
    """A layer while it is unrolled.

    Attributes:
        kind: the operator: "GRU", "LSTM" or "RNN".
        nodes: gets the nodes.
        attributes: values of the layer's attributes by name.
        present: for each name in `_INPUTS`, whether the layer has that input.
        steps: length of the sequences.
        batch: number of sequences.
    """

    kind: str
    nodes: _Nodes
    attributes: Mapping[str, Any]
    present: Mapping[str, bool]
    steps: int
    batch: int

    def direction(self, x: str, index: int, activations: Sequence[str], *, backwards: bool) -> tuple[list[str], State]:
        """Add the steps of one direction.

        Args:
            x: name of the input: [steps, batch, features].
            index: 0 for the first direction, 1 for the second.
            activations: ONNX operators of the direction's activations.
            backwards: whether the direction runs from the last step to the first.

        Returns:
            The hidden states after each step, in the order of the input, and the state after the last step.
        """
        nodes, hidden = self.nodes, self.attributes["hidden_size"]
        weights, recurrent = (nodes.add("Transpose", self._of_direction(n, index), perm=[1, 0]) for n in ("w", "r"))
        projected = nodes.add("MatMul", x, weights)
        gates = _GATES[self.kind]
        bias_w = bias_r = nodes.constant(np.zeros(gates * hidden, "float32"))
        if self.present["b"]:
            bias_w, bias_r = nodes.split(self._of_direction("b", index), 2, 0)
        projected = nodes.add("Add", projected, bias_w)
        zeros = nodes.constant(np.zeros((self.batch, hidden), "float32"))
        state = tuple(
            self._initial(name, index) if self.present[name] else zeros
            for name in (("h", "c") if self.kind == "LSTM" else ("h",))
        )
        step = _STEPS[self.kind]
        states: list[str] = []
        for t in reversed(range(self.steps)) if backwards else range(self.steps):
            row = nodes.add("Gather", projected, nodes.constant(np.array(t, "int64")), axis=0)
            state = step(self, row, state, recurrent, bias_r, activations, index)
            states.append(state[0])
        return states[::-1] if backwards else states, state

    def finish(self, results: Sequence[tuple[list[str], State]], layout: int) -> None:
        """Add the layer's results: y [steps, directions, batch, hidden], and y_h and y_c [directions, batch, hidden].

        Args:
            results: what `direction` returned for each direction.
            layout: the layer's attribute; with 1, the batch is the first axis of all results.
        """
        nodes = self.nodes
        one, zero = nodes.constant(np.array([1], "int64")), nodes.constant(np.array([0], "int64"))
        whole = []
        for states, _ in results:
            rows = [nodes.add("Unsqueeze", s, zero) for s in states]
            whole.append(nodes.add("Unsqueeze", nodes.add("Concat", *rows, axis=0), one))
        y = nodes.add("Concat", *whole, axis=1)
        self._result("y", y, [2, 0, 1, 3] if layout else None)
        for k, name in enumerate(_OUTPUTS[1:][: len(results[0][1])]):
            lasts = [nodes.add("Unsqueeze", state[k], zero) for _, state in results]
            self._result(name, nodes.add("Concat", *lasts, axis=0), [1, 0, 2] if layout else None)

    def _result(self, name: str, value: str, order: Sequence[int] | None) -> None:
        if order is None:
            self.nodes.add("Identity", value, name=name)
        else:
            self.nodes.add("Transpose", value, name=name, perm=order)

    def _of_direction(self, name: str, index: int) -> str:
        return self.nodes.add("Gather", name, self.nodes.constant(np.array(index, "int64")), axis=0)

    def _initial(self, name: str, index: int) -> str:
        axis = 1 if self.attributes.get("layout", 0) else 0
        return self.nodes.add("Gather", name, self.nodes.constant(np.array(index, "int64")), axis=axis)

    def activate(self, name: str, x: str) -> str:
        """Add an activation of x, which is limited first if the layer has the attribute `clip`."""
        clip = self.attributes.get("clip")
        if clip is not None:
            limits = [self.nodes.constant(np.array(v, "float32")) for v in (-clip, clip)]
            x = self.nodes.add("Clip", x, *limits)
        return self.nodes.add(name, x)

    def rnn(self, row: str, state: State, recurrent: str, bias: str, activations: Sequence[str], index: int) -> State:
        """Add `h = f(x W + h R + b)`."""
        del index
        back = self.nodes.add("Add", self.nodes.add("MatMul", state[0], recurrent), bias)
        return (self.activate(activations[0], self.nodes.add("Add", row, back)),)

    def gru(self, row: str, state: State, recurrent: str, bias: str, activations: Sequence[str], index: int) -> State:
        """Add `h = (1 - z) n + z h`, with gates z and r; for n see `evaluation.recurrent.GRU`."""
        del index
        nodes, (h,) = self.nodes, state
        f, g = activations
        row_z, row_r, row_n = nodes.split(row, 3, -1)
        r_z, r_r, r_n = nodes.split(recurrent, 3, -1)
        b_z, b_r, b_n = nodes.split(bias, 3, 0)
        z, r = (
            self.activate(f, nodes.add("Add", x, nodes.add("Add", nodes.add("MatMul", h, weights), b)))
            for x, weights, b in ((row_z, r_z, b_z), (row_r, r_r, b_r))
        )
        if self.attributes.get("linear_before_reset", 0):
            back = nodes.add("Mul", r, nodes.add("Add", nodes.add("MatMul", h, r_n), b_n))
        else:
            back = nodes.add("Add", nodes.add("MatMul", nodes.add("Mul", r, h), r_n), b_n)
        n = self.activate(g, nodes.add("Add", row_n, back))
        rest = nodes.add("Sub", nodes.constant(np.array(1, "float32")), z)
        return (nodes.add("Add", nodes.add("Mul", rest, n), nodes.add("Mul", z, h)),)

    def lstm(self, row: str, state: State, recurrent: str, bias: str, activations: Sequence[str], index: int) -> State:
        """Add `c = f c + i g(n)` and `h = o h(c)`, with gates i, o and f, to which peepholes add a multiple of c."""
        nodes, (h, c) = self.nodes, state
        f, g, act_h = activations
        back = nodes.add("Add", nodes.add("MatMul", h, recurrent), bias)
        i, o, forget, n = nodes.split(nodes.add("Add", row, back), 4, -1)
        peep_i = peep_o = peep_f = ""
        if self.present["p"]:
            peep_i, peep_o, peep_f = nodes.split(self._of_direction("p", index), 3, 0)

        def with_peephole(x: str, peephole: str, cell: str) -> str:
            return nodes.add("Add", x, nodes.add("Mul", peephole, cell)) if peephole else x

        i = self.activate(f, with_peephole(i, peep_i, c))
        if self.attributes.get("input_forget", 0):
            forget = nodes.add("Sub", nodes.constant(np.array(1, "float32")), i)
        else:
            forget = self.activate(f, with_peephole(forget, peep_f, c))
        new = nodes.add("Mul", i, self.activate(g, n))
        c = nodes.add("Add", nodes.add("Mul", forget, c), new)
        o = self.activate(f, with_peephole(o, peep_o, c))
        return nodes.add("Mul", o, nodes.add(act_h, c)), c


_Step = Callable[[_Cell, str, State, str, str, Sequence[str], int], State]

_STEPS: Mapping[str, _Step] = {"GRU": _Cell.gru, "LSTM": _Cell.lstm, "RNN": _Cell.rnn}
