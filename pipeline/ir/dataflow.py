"""A program's function `main` as a list of bindings: `Dataflow` to read it, `DataflowBuilder` to write a new one.

Programs have no control flow: `main` is one dataflow block, in which every variable is assigned once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.ir import Op

from pipeline.ir.bridge import UnsupportedProgramError
from pipeline.ir.tvm_private.relax import Constant


@dataclass(frozen=True)
class Binding:
    """One assignment `var = value`. All arguments of `value` are variables, constants, or tuples of them."""

    var: relax.Var
    value: relax.Expr

    @property
    def operator(self) -> str:
        """Name of the operator, for example `relax.add` or `nn.conv2d`; see `operator_name`."""
        return operator_name(self.value)

    @cached_property
    def reads(self) -> tuple[relax.Var, ...]:
        """The variables among the value's arguments; see `variables`."""
        return variables(self.value)


@dataclass(frozen=True)
class Dataflow:
    """The function `main`.

    Attributes:
        params: the function's parameters.
        bindings: the assignments in order of execution; those of a variable to another one are resolved.
        outputs: what the function returns, one expression (a variable or a constant) for each output.
    """

    params: tuple[relax.Var, ...]
    bindings: tuple[Binding, ...]
    outputs: tuple[relax.Expr, ...]

    @classmethod
    def of(cls, module: tvm.IRModule) -> Dataflow:
        """Return the dataflow of a module's `main`.

        Raises:
            UnsupportedProgramError: the function has control flow.
        """
        # Modules don't change, and one pass after another asks for the same.
        if (found := _flows.get(module)) is None:
            found = _flows[module] = cls._read(module["main"])
        return found

    @classmethod
    def _read(cls, function: relax.Function) -> Dataflow:
        aliases: dict[relax.Expr, relax.Expr] = {}

        def resolve(expr: relax.Expr) -> relax.Expr:
            while expr in aliases:
                expr = aliases[expr]
            return expr

        bindings: list[Binding] = []
        tuples: dict[relax.Expr, relax.Tuple] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                value = binding.value
                if isinstance(value, relax.Var | Constant):
                    aliases[binding.var] = value
                elif isinstance(value, relax.If | relax.SeqExpr):
                    raise UnsupportedProgramError(f"tensor {binding.var.name!r} depends on control flow (If)")
                elif isinstance(value, relax.Tuple):
                    tuples[binding.var] = value
                    bindings.append(Binding(binding.var, value))
                else:
                    bindings.append(Binding(binding.var, value))
        if resolved := {k: resolve(k) for k in aliases}:
            # Others stay the objects that they are, whose types are known.
            bindings = [
                b if resolved.keys().isdisjoint(b.reads) else Binding(b.var, substitute(b.value, resolved))
                for b in bindings
            ]
        body = resolve(function.body.body)
        returned = tuples.get(body, body)
        outputs = tuple(returned.fields) if isinstance(returned, relax.Tuple) else (returned,)
        outputs = tuple(resolve(o) for o in outputs)
        if tuples:
            arguments = {v for b in bindings for v in b.reads}
            bindings = [b for b in bindings if b.var not in tuples or b.var in arguments]
        return cls(tuple(function.params), tuple(bindings), outputs)

    @cached_property
    def producers(self) -> dict[relax.Var, Binding]:
        """The binding that computes each variable; parameters have none."""
        return {b.var: b for b in self.bindings}

    @cached_property
    def users(self) -> dict[relax.Var, tuple[Binding, ...]]:
        """The bindings that read each variable, in order; one that reads it twice is listed once."""
        found: dict[relax.Var, list[Binding]] = {v: [] for v in self.params}
        for b in self.bindings:
            found.setdefault(b.var, [])
            for v in dict.fromkeys(b.reads):
                found.setdefault(v, []).append(b)
        return {v: tuple(bs) for v, bs in found.items()}

    def only_user(self, var: relax.Var) -> Binding | None:
        """Return the one binding that reads `var`; None if there are none or several, or if `var` is an output."""
        users = self.users[var]
        return users[0] if len(users) == 1 and var not in self.outputs else None


_flows: WeakKeyDictionary[tvm.IRModule, Dataflow] = WeakKeyDictionary()
"""The dataflow of each module that is still in use."""


@dataclass
class DataflowBuilder:
    """Writes a new `main` in place of the old one, and keeps the module's other functions.

    Variables are named for the tensors that users know, so a name may be any text, and no two variables share one.

    Attributes:
        module: the module whose `main` is replaced.
        params: parameters of the new function; by default those of the old one.
        values: the new expression for each variable of the old function that has been rewritten so far.
        flow: the old function.
    """

    module: tvm.IRModule
    params: Sequence[relax.Var] | None = None
    values: dict[relax.Var, relax.Expr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.flow = Dataflow.of(self.module)
        self._params = list(self.flow.params if self.params is None else self.params)
        self._computed: dict[relax.Var, relax.Expr] = {}
        self._old_variables: dict[relax.Expr, list[relax.Var]] = {p: [p] for p in self.flow.params}
        self._names = {p.name for p in self._params}
        self._suffixes: dict[str, int] = {}
        self._functions: dict[str, int] = {}
        self._builder = relax.BlockBuilder()
        self._function_scope = self._builder.function("main", self._params)
        self._function_scope.__enter__()
        self._dataflow_scope = self._builder.dataflow()
        self._dataflow_scope.__enter__()

    def emit(self, expr: relax.Expr, name: str) -> relax.Var:
        """Append `name = expr` and return the new variable; a number is added to a name that is taken."""
        # BlockBuilder.emit would name it in one namespace with functions, and rename a tensor called `main`.
        value = self._builder.normalize(expr)
        var = relax.DataflowVar(self._unused_name(name), value.ty)
        self._builder.emit_normalized(relax.VarBinding(var, value))
        self._computed[var] = expr
        return var

    def producing_call(self, expr: relax.Expr) -> relax.Call | None:
        """Return the call that computes a variable of the new function; None if no call does."""
        value = self._computed.get(expr) if isinstance(expr, relax.Var) else None
        return value if isinstance(value, relax.Call) else None

    def replace(self, var: relax.Var, value: relax.Expr) -> None:
        """Replace a variable of the old function by an expression of the new one, wherever it is read later."""
        self.values[var] = value
        self._old_variables.setdefault(value, []).append(var)

    def is_read_once(self, expr: relax.Expr) -> bool:
        """Return whether a variable of the new function has exactly one use: it is read once, and isn't an output."""
        old = self._old_variables.get(expr, [])
        readers = {reader.var: reader for v in old for reader in self.flow.users[v] if reader.var not in old}
        reads = [v for reader in readers.values() for v in reader.reads if v in old]
        return len(reads) == 1 and not any(v in self.flow.outputs for v in old)

    def _unused_name(self, name: str) -> str:
        unused = name
        while unused in self._names:
            self._suffixes[name] = self._suffixes.get(name, 0) + 1
            unused = f"{name}_{self._suffixes[name]}"
        self._names.add(unused)
        return unused

    def copy(self, binding: Binding) -> relax.Var:
        """Append a binding of the old function, with its variables replaced, and return the new variable.

        A binding that reads what it read before stays the same, with its variable.
        """
        old, value = binding.var, binding.value
        same = all(self.values.get(v, v).same_as(v) for v in binding.reads) and not value.ty.is_missing()
        if same and old.name not in self._names and isinstance(old, relax.DataflowVar):
            self._names.add(old.name)
            self._builder.emit_normalized(relax.VarBinding(old, value))
            self._computed[old] = value
            var = old
        else:
            var = self.emit(self.replaced(value), old.name)
        self.replace(old, var)
        return var

    def add_function(self, name: str, function: tvm.tirx.PrimFunc) -> tvm.ir.GlobalVar:
        """Add a TIR function to the module and return its name; an equal function that is there already is used again.

        If the name is taken by a different function, `__2` is added to it, then `__3`, and so on.
        """
        number = self._functions.get(name, 0) + 1
        unused = name if number == 1 else f"{name}__{number}"
        added = self._builder.add_func(function, unused)
        if added.name_hint == unused:
            self._functions[name] = number
        return added

    def replaced(self, expr: relax.Expr) -> relax.Expr:
        """Return an expression of the old function with its variables replaced by their new expressions."""
        return substitute(expr, self.values)

    def finish(self, outputs: Sequence[relax.Expr] | None = None) -> tvm.IRModule:
        """Close the function, and return the module with dead code removed.

        Args:
            outputs: what the new function returns; by default the outputs of the old one, replaced.
        """
        if outputs is None:
            outputs = [self.replaced(o) for o in self.flow.outputs]
        returned = outputs[0] if len(outputs) == 1 else relax.Tuple(list(outputs))
        result = self._builder.emit_output(returned)
        self._dataflow_scope.__exit__(None, None, None)
        self._builder.emit_func_output(result)
        self._function_scope.__exit__(None, None, None)
        kept = {gv: f for gv, f in self.module.functions.items() if gv.name_hint != "main"}
        rebuilt = tvm.IRModule({**kept, **self._builder.get().functions})
        return relax.transform.DeadCodeElimination(["main"])(rebuilt)


def substitute(expr: relax.Expr, values: dict[Any, relax.Expr]) -> relax.Expr:
    """Return `expr` with its variables replaced by their `values`; others stay. Fields of known tuples are resolved."""
    if isinstance(expr, relax.Var):
        return values.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(f, values) for f in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        whole = substitute(expr.tuple_value, values)
        return whole.fields[expr.index] if isinstance(whole, relax.Tuple) else relax.TupleGetItem(whole, expr.index)
    if isinstance(expr, relax.Call):
        return with_arguments(expr, [substitute(a, values) for a in expr.args])
    return expr


def with_arguments(call: relax.Call, arguments: Sequence[relax.Expr]) -> relax.Call:
    """Return a call of the same operator with the same attributes, but with other arguments."""
    return relax.Call(call.op, list(arguments), call.attrs, list(call.ty_args))


def variables(expr: relax.Expr) -> tuple[relax.Var, ...]:
    """Return the variables among an expression's arguments, in order, repeats included."""
    if isinstance(expr, relax.Var):
        return (expr,)
    if isinstance(expr, relax.Tuple):
        return tuple(v for f in expr.fields for v in variables(f))
    if isinstance(expr, relax.TupleGetItem):
        return variables(expr.tuple_value)
    if isinstance(expr, relax.Call):
        return tuple(v for a in expr.args for v in variables(a))
    return ()


def operator_name(expr: relax.Expr) -> str:
    """Return the name of the operator that an expression calls; for any other expression its class name, as `Tuple`."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, Op):
        return str(expr.op.name)
    return type(expr).__name__


def constant(expr: relax.Expr) -> npt.NDArray[Any] | None:
    """Return the value of a constant expression, read-only, as it shares the program's memory; None for any other."""
    if not isinstance(expr, Constant):
        return None
    # NumPy can't share memory of types that it doesn't have.
    value = expr.value.numpy() if str(expr.value.dtype) == "bfloat16" else np.from_dlpack(expr.value)
    value.flags.writeable = False
    return np.asarray(value)


def make_constant(value: npt.NDArray[Any]) -> relax.Expr:
    """Return a constant of the same shape and dtype as `value`."""
    value = np.require(value, requirements="C")
    return relax.const(value, str(value.dtype))


__all__ = [
    "Binding",
    "Dataflow",
    "DataflowBuilder",
    "constant",
    "make_constant",
    "operator_name",
    "substitute",
    "variables",
    "with_arguments",
]
