"""Rewriting: what patterns match, when and why rules decline, names of results, and removal of dead code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from pipeline import ops
from pipeline.ir.bridge import make_call, tensor_type
from pipeline.ir.dataflow import Dataflow, make_constant
from pipeline.ir.rewriting import Declined, Match, Pattern, Rule, anything, call, constant_value, one_of, rewrite

Build = Callable[..., dict[str, relax.Expr]]


def program(*steps: tuple[str, Callable[..., relax.Expr]], outputs: tuple[str, ...]) -> tvm.IRModule:
    """Return a program of one input x: [2,3], whose steps are named, and get the tensors before them by name."""
    builder, tensors = relax.BlockBuilder(), {"x": relax.Var("x", relax.TensorType((2, 3), "float32"))}
    with builder.function("main", [tensors["x"]]):
        with builder.dataflow():
            for name, make in steps:
                value = builder.normalize(make(**{k: v for k, v in tensors.items() if k in make.__code__.co_varnames}))
                tensors[name] = relax.DataflowVar(name, value.ty)
                builder.emit_normalized(relax.VarBinding(tensors[name], value))
            results = [builder.emit_output(tensors[o], o) for o in outputs]
        builder.emit_func_output(relax.Tuple(results) if len(results) > 1 else results[0])
    return builder.get()


def steps(module: tvm.IRModule) -> list[tuple[str, str]]:
    """Return each step's name and operator."""
    return [(b.var.name, b.operator) for b in Dataflow.of(module).bindings]


def number(value: float) -> relax.Expr:
    return make_constant(np.full((2, 3), value, "float32"))


EXP_OF_SUM = program(("a", lambda x: relax.op.add(x, number(1))), ("y", lambda a: relax.op.exp(a)), outputs=("y",))


def to_abs(pattern: Pattern, check: Callable[[Match], str | None] = lambda _: None) -> Rule:
    """Return a rule that replaces a pattern by `abs(x)`."""
    return Rule("to_abs", pattern, lambda match: relax.op.abs(match["x"]), check)


def test_a_match_becomes_what_the_rule_says_under_its_own_name() -> None:
    after = rewrite(EXP_OF_SUM, to_abs(call("relax.exp", call("relax.add", anything("x")))))
    assert steps(after) == [("y", "relax.abs")]


def test_what_does_not_match_stays() -> None:
    after = rewrite(EXP_OF_SUM, to_abs(call("relax.exp", call("relax.multiply", anything("x")))))
    assert steps(after) == steps(EXP_OF_SUM)


@pytest.mark.parametrize(
    "pattern",
    [
        call("relax.multiply", anything("x")),
        call("relax.exp", call("relax.multiply", anything("x"))),
        one_of(call("relax.multiply", anything("x")), call("relax.exp", call("relax.sin", anything("x")))),
    ],
)
def test_a_program_without_the_operators_of_any_rule_is_returned_as_it_is(pattern: Pattern) -> None:
    assert rewrite(EXP_OF_SUM, to_abs(pattern)) is EXP_OF_SUM


def test_what_reads_the_same_as_before_keeps_its_variable() -> None:
    before = program(
        ("a", lambda x: relax.op.add(x, number(1))),
        ("b", lambda a: relax.op.exp(a)),
        ("c", lambda b: relax.op.sin(b)),
        outputs=("c",),
    )
    after = rewrite(before, to_abs(call("relax.exp", anything("x"))))
    assert steps(after) == [("a", "relax.add"), ("b", "relax.abs"), ("c", "relax.sin")]
    kept = [
        new.var.same_as(old.var)
        for new, old in zip(Dataflow.of(after).bindings, Dataflow.of(before).bindings, strict=True)
    ]
    assert kept == [True, False, False]


def test_a_chain_is_fused_in_one_walk() -> None:
    module = program(
        ("a", lambda x: relax.op.exp(x)),
        ("b", lambda a: relax.op.abs(a)),
        ("y", lambda b: relax.op.abs(b)),
        outputs=("y",),
    )
    once = Rule("abs_of_exp", call("relax.abs", call("relax.exp", anything("x"))), lambda m: relax.op.exp(m["x"]))
    assert steps(rewrite(module, once)) == [("y", "relax.exp")]


@pytest.mark.parametrize("swapped", [False, True])
def test_commutative_operands_match_in_both_orders(swapped: bool) -> None:
    def total(x: relax.Expr) -> relax.Expr:
        return relax.op.add(number(1), x) if swapped else relax.op.add(x, number(1))

    rule = to_abs(call("relax.add", anything("x"), constant_value("1"), commutative=True))
    assert steps(rewrite(program(("y", total), outputs=("y",)), rule)) == [("y", "relax.abs")]


def test_a_name_that_stands_twice_is_one_tensor() -> None:
    square = to_abs(call("relax.multiply", anything("x"), anything("x")))
    module = program(
        ("a", lambda x: relax.op.exp(x)),
        ("b", lambda a: relax.op.multiply(a, a)),
        ("c", lambda a, x: relax.op.multiply(a, x)),
        outputs=("b", "c"),
    )
    assert steps(rewrite(module, square)) == [("a", "relax.exp"), ("b", "relax.abs"), ("c", "relax.multiply")]


def test_constants_match_by_their_values() -> None:
    rule = to_abs(call("relax.add", anything("x"), constant_value("c", lambda v: bool((v == 2).all()))))
    assert steps(rewrite(program(("y", lambda x: relax.op.add(x, number(2))), outputs=("y",)), rule)) != []
    assert steps(rewrite(EXP_OF_SUM, rule)) == steps(EXP_OF_SUM)


def test_one_of_takes_the_first_that_fits() -> None:
    rule = to_abs(one_of(call("relax.log", anything("x")), call("relax.exp", anything("x"))))
    assert steps(rewrite(EXP_OF_SUM, rule)) == [("a", "relax.add"), ("y", "relax.abs")]


def test_a_class_without_a_name_stands_for_all_derived_from_it() -> None:
    weight, bias = make_constant(np.ones((4, 3), "float32")), make_constant(np.zeros(4, "float32"))
    module = program(("y", lambda x: make_call(ops.Dense(), x, weight, bias)), outputs=("y",))
    rule = Rule("drop", call(ops.Linear, anything("x")), lambda m: relax.op.zeros(m.result_type.shape, "float32"))
    assert steps(rewrite(module, rule)) == [("y", "relax.zeros")]


READ_ONCE = to_abs(call("relax.exp", call("relax.add", anything("x"), name="sum", read_once=True)))


@pytest.mark.parametrize(
    "module",
    [
        program(
            ("a", lambda x: relax.op.add(x, number(1))),
            ("y", lambda a: relax.op.exp(a)),
            ("z", lambda a: relax.op.log(a)),
            outputs=("y", "z"),
        ),
        program(("a", lambda x: relax.op.add(x, number(1))), ("y", lambda a: relax.op.exp(a)), outputs=("y", "a")),
    ],
    ids=["by another operator", "as an output"],
)
def test_what_others_read_is_left_alone_and_the_reason_is_told(module: tvm.IRModule) -> None:
    declined: list[Declined] = []
    after = rewrite(module, READ_ONCE, declined=declined)
    assert steps(after) == steps(module)
    assert declined == [Declined("to_abs", "y", "'a' is also read elsewhere, or is an output")]


def test_an_operator_that_reads_a_tensor_twice_is_no_single_reader() -> None:
    module = program(("a", lambda x: relax.op.exp(x)), ("y", lambda a: relax.op.add(a, a)), outputs=("y",))
    rule = to_abs(call("relax.add", call("relax.exp", anything("x"), name="inner", read_once=True)))
    assert steps(rewrite(module, rule)) == steps(module)


def test_a_rule_declines_with_its_own_reason() -> None:
    declined: list[Declined] = []
    rule = to_abs(call("relax.exp", anything("x")), lambda match: f"it is {match.result_type.dtype}")
    rewrite(EXP_OF_SUM, rule, declined=declined)
    assert declined == [Declined("to_abs", "y", "it is float32")]


def test_rules_are_tried_in_order_and_the_first_wins() -> None:
    first = Rule("first", call("relax.exp", anything("x")), lambda m: relax.op.log(m["x"]))
    assert steps(rewrite(EXP_OF_SUM, first, to_abs(call("relax.exp", anything("x")))))[-1] == ("y", "relax.log")


def test_an_output_that_becomes_another_tensor_keeps_its_place() -> None:
    module = program(("a", lambda x: relax.op.exp(x)), ("y", lambda a: relax.op.abs(a)), outputs=("y", "a"))
    after = rewrite(module, Rule("forget_abs", call("relax.abs", anything("x")), lambda match: match["x"]))
    first, second = Dataflow.of(after).outputs
    assert first.same_as(second)
    assert tensor_type(first).shape == (2, 3)


def test_a_name_is_asked_for_where_a_reason_needs_it() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        call("relax.exp", read_once=True)
