"""Which operators people mean: by the names of ONNX nodes or of their outputs, by type, or by a pattern.

A word is looked up as it is spelled, then in any case and without underscores, then, if it holds `*`, `?` or `[`, as a
pattern. Types are those of reports (`rules.kinds`), ONNX's and Paddle's. Where two of these lists spell a word alike,
reports come first: `matmul` is a product of two activations there, and `mul`, which they don't know, Paddle's product
with weights; `Mul` is ONNX's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from msgspec.structs import replace

from pipeline.errors import OptionError, PipelineError, TableError
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation
from pipeline.quantization.rules import kind_of, kinds

_PRODUCTS = ("conv2d", "conv2d_transpose", "dense", "depthwise_conv2d", "matmul")

ONNX_KINDS: Mapping[str, tuple[str, ...]] = {
    "Add": ("add",),
    "AveragePool": ("avg_pool2d",),
    "Concat": ("concat",),
    "Conv": ("conv2d", "depthwise_conv2d"),
    "ConvTranspose": ("conv2d_transpose",),
    "DepthToSpace": ("depth_to_space",),
    "Einsum": _PRODUCTS,
    "Flatten": ("reshape",),
    "GRU": _PRODUCTS,
    "Gather": ("gather",),
    "Gemm": _PRODUCTS,
    "GlobalAveragePool": ("avg_pool2d",),
    "GlobalMaxPool": ("max_pool2d",),
    "LSTM": _PRODUCTS,
    "MatMul": _PRODUCTS,
    "MaxPool": ("max_pool2d",),
    "Mul": ("multiply",),
    "Pad": ("pad",),
    "RNN": _PRODUCTS,
    "ReduceMean": ("avg_pool2d",),
    "Reshape": ("reshape",),
    "Resize": ("resize",),
    "Slice": ("slice",),
    "Softmax": ("softmax",),
    "Split": ("slice",),
    "Squeeze": ("reshape",),
    "Sum": ("add",),
    "Transpose": ("transpose",),
    "Unsqueeze": ("reshape",),
    "Upsample": ("resize",),
}
"""ONNX type -> types of the operators that it can be the main part of; of others, `unary`.

What is only fused into another operator, a `Relu` into a convolution, isn't what that operator is."""

PADDLE_KINDS: Mapping[str, tuple[str, ...]] = {
    "bilinear_interp": ("resize",),
    "bilinear_interp_v2": ("resize",),
    "bmm": ("matmul",),
    "depthwise_conv2d_transpose": ("conv2d_transpose",),
    "elementwise_add": ("add",),
    "elementwise_mul": ("multiply",),
    "fc": ("dense",),
    "flatten2": ("reshape",),
    "flatten_contiguous_range": ("reshape",),
    "index_select": ("gather",),
    "matmul_v2": ("dense", "matmul"),
    "mul": ("dense",),
    "nearest_interp": ("resize",),
    "nearest_interp_v2": ("resize",),
    "pad2d": ("pad",),
    "pad3d": ("pad",),
    "pixel_shuffle": ("depth_to_space",),
    "pool2d": ("avg_pool2d", "max_pool2d"),
    "relu6": ("unary",),
    "reshape2": ("reshape",),
    "squeeze2": ("reshape",),
    "strided_slice": ("slice",),
    "swish": ("unary",),
    "transpose2": ("transpose",),
    "unsqueeze2": ("reshape",),
}
"""Paddle's type -> types in reports, where Paddle's name isn't one of these, or of ONNX."""

_PATTERN = frozenset("*?[")


class Selection:
    """A program's operators, to look words up in."""

    def __init__(self, program: Program) -> None:
        bindings = Dataflow.of(program.module).bindings
        # TVM's strings aren't what JSON is made of.
        self.kinds = {str(b.var.name): kind_of(b) for b in bindings}
        self._names: dict[str, set[str]] = {name: {name} for name in self.kinds}
        for node in program.nodes:
            for name in filter(None, (node.name, *node.outputs)):
                if node.variables and name not in self.kinds:
                    self._names.setdefault(name, set()).update(map(str, node.variables))
        self._types = self._types_of(program)

    def _types_of(self, program: Program) -> dict[str, set[str]]:
        """Return the operators of each type, known ones without any included; lists that come first hide others."""
        onnx: dict[str, set[str]] = {operator: set() for operator in ONNX_KINDS}
        for node in program.nodes:
            wanted = ONNX_KINDS.get(node.operator, ("unary",))
            main = {str(v) for v in node.variables if self.kinds.get(v) in wanted}
            onnx.setdefault(node.operator, set()).update(main)
        found: dict[str, set[str]] = {kind: set() for kind in kinds()}
        for name, kind in self.kinds.items():
            found.setdefault(kind, set()).add(name)
        paddle = {t: set().union(*(found[kind] for kind in counterparts)) for t, counterparts in PADDLE_KINDS.items()}
        return {**onnx, **paddle, **found}

    def find(self, word: str, types_first: bool = False) -> set[str]:
        """Return the names of the operators that a word means; none if it means nothing.

        Args:
            word: see the module's docstring.
            types_first: whether a word that is both is a type rather than a name.
        """
        lists = (self._types, self._names) if types_first else (self._names, self._types)
        for known in lists:
            if word in known:
                # A type that is known as it is spelled is that one, even if there is none: `mul` isn't `Mul`.
                return known[word]
        for known in lists:
            found = set().union(*(names for k, names in known.items() if _folded(k) == _folded(word)))
            if found:
                return found
        if _PATTERN.isdisjoint(word):
            return set()
        matching = [n for known in lists for k, n in known.items() if fnmatchcase(k.lower(), word.lower())]
        return set().union(*matching)

    def unknown(self, word: str) -> str:
        """Return what is said of a word that means nothing: the nearest words, and the types that there are."""
        types = [t for t, names in self._types.items() if names]
        known = {_folded(k): k for k in (*self._names, *types)}
        close = difflib.get_close_matches(_folded(word), known, n=3)
        hint = f" Did you mean {' or '.join(repr(known[c]) for c in close)}?" if close else ""
        return (
            f"no operator of the model has that name or type, or comes from a node that has.{hint} "
            f"Types in this model: {', '.join(sorted(set(types) - PADDLE_KINDS.keys()))}. "
            "`pipeline inspect MODEL` lists its operators."
        )


def select(program: Program, words: Iterable[str], where: str, types_first: bool = False) -> set[str]:
    """Return the names of the operators that the words mean together.

    Args:
        program: the float program.
        words: see the module's docstring.
        where: the option that holds them, for the message.
        types_first: see `Selection.find`.

    Raises:
        OptionError: a word means none of the program's operators.
    """
    selection = Selection(program)
    return set().union(*(_found(selection, word, where, OptionError, types_first) for word in words))


def with_names(annotation: Annotation, program: Program) -> Annotation:
    """Return an annotation in which each decision is for one operator, by its own name.

    A file's decisions may name operators in any way. Of two for the same operator the later one holds.

    Raises:
        TableError: a decision means none of the program's operators.
    """
    selection = Selection(program)
    if all(o.name in selection.kinds for o in annotation.operators):
        return annotation
    decided = {}
    for decision in annotation.operators:
        for name in _found(selection, decision.name, "the annotation", TableError):
            decided[name] = replace(decision, name=name, operator=selection.kinds[name])
    ordered = tuple(decided[name] for name in selection.kinds if name in decided)
    return replace(annotation, operators=ordered)


def _found(
    selection: Selection, word: str, where: str, error: Callable[[str], PipelineError], types_first: bool = False
) -> set[str]:
    found = selection.find(word, types_first)
    if not found:
        raise error(f"Unknown operator {word!r} in {where}: {selection.unknown(word)}")
    return found


def _folded(text: str) -> str:
    return text.lower().replace("_", "")
