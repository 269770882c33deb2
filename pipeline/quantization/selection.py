"""Finds the operators that a user names: by the names of ONNX nodes or of their outputs, by type, or by a pattern.

A word is looked up as it is spelled, then in any case and without underscores, then, if it contains `*`, `?` or `[`, as
a pattern. Types are those of reports (`rules.kinds`), ONNX's and Paddle's. A word that is a type in several of these
lists has the meaning that it has in reports: `matmul` is a product of two activations, as in reports; `mul` isn't
a type of reports, and is Paddle's product with weights; `Mul` is ONNX's product of two tensors.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from msgspec.structs import replace

from pipeline.errors import OptionError, PipelineError, TableError
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program
from pipeline.quantization.annotation import Annotation, OperatorDecision
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
"""ONNX type -> types of the operators that an ONNX node of that type may become. Any other ONNX type becomes `unary`.

A node that is fused into another operator, as a `Relu` into a convolution, doesn't give that operator its type."""

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
"""Paddle's type -> types in reports, for names of Paddle that are neither in reports nor ONNX's."""

_PATTERN = frozenset("*?[")

PART = ".wide"
"""Suffix of the names of parts that an operator has been cut into; see `quantization.wide_channels`. Where there is no
such part, its name stands for the whole operator, so that what is found out about a part can be said of the model."""


class Selection:
    """Looks words up among a program's operators."""

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
        """Return type -> names of operators, for all known types, also those that no operator has."""
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
        """Return the names of the operators that a word stands for; empty if there are none.

        Args:
            word: see the module's docstring.
            types_first: whether a word that is a type as well as a name is taken as the type.
        """
        lists = (self._types, self._names) if types_first else (self._names, self._types)
        for known in lists:
            if word in known:
                # A word that is a known type exactly as spelled is that type, even if no operator has it: `mul` isn't
                # `Mul`.
                return known[word]
        for known in lists:
            found = set().union(*(names for k, names in known.items() if _folded(k) == _folded(word)))
            if found:
                return found
        if _PATTERN.isdisjoint(word):
            return set()
        matching = [n for known in lists for k, n in known.items() if fnmatchcase(k.lower(), word.lower())]
        return set().union(*matching)

    def is_absent_type(self, word: str) -> bool:
        """Whether a word is a known type, as it is spelled, that none of the program's operators has."""
        return self._types.get(word) == set()

    def unknown(self, word: str) -> str:
        """Return the message for a word that stands for no operator: similar words, and the types in the model."""
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
    """Return the names of all operators that any of the words stands for.

    Args:
        program: the float program.
        words: see the module's docstring.
        where: the option that holds them, for the message.
        types_first: see `Selection.find`. Among such words, a known type that no operator has stands for none, if
            another word stands for some: lists of types, such as PaddleSlim's default, are meant for many models.

    Raises:
        OptionError: a word stands for none of the program's operators.
    """
    selection, given = Selection(program), list(words)
    absent = [word for word in given if types_first and selection.is_absent_type(word)]
    meant = given if len(absent) == len(given) else [word for word in given if word not in absent]
    return set().union(*(_found(selection, word, where, OptionError, types_first) for word in meant))


def absent_types(program: Program, words: Iterable[str]) -> list[str]:
    """Return the words that are known types which no operator of the program has."""
    return list(filter(Selection(program).is_absent_type, words))


def select_tensors(program: Program, words: Iterable[str], where: str) -> set[str]:
    """Return the names of all tensors that any of the words stands for: inputs, and what operators write.

    Args:
        program: the float program.
        words: names of inputs, patterns of these, or what stands for operators; see the module's docstring.
        where: the option that holds them, for the message.

    Raises:
        OptionError: a word stands for none of the program's tensors.
    """
    selection, found = Selection(program), set()
    inputs = [str(var.name) for var in Dataflow.of(program.module).params]
    for word in words:
        read = {name for name in inputs if name == word or fnmatchcase(name.lower(), word.lower())}
        found |= (selection.find(word) | read) or _found(selection, word, where, OptionError)
    return found


def with_names(annotation: Annotation, program: Program) -> Annotation:
    """Return an annotation in which each decision is for one operator, by its own name.

    In a file, a decision may be for several operators, by a node's name, a type or a pattern. If two decisions are for
    the same operator, the later one holds. Operators without a decision stay in float.

    Raises:
        TableError: a decision is for none of the program's operators.
    """
    selection = Selection(program)
    if [o.name for o in annotation.operators] == list(selection.kinds):
        return annotation
    decided = {
        name: OperatorDecision(name=name, operator=kind, precision="float32", reason="the annotation doesn't name it")
        for name, kind in selection.kinds.items()
    }
    for decision in annotation.operators:
        for name in _found(selection, decision.name, "the annotation", TableError):
            decided[name] = replace(decision, name=name, operator=selection.kinds[name])
    return replace(annotation, operators=tuple(decided.values()))


def _found(
    selection: Selection, word: str, where: str, error: Callable[[str], PipelineError], types_first: bool = False
) -> set[str]:
    found = selection.find(word, types_first) or selection.find(word.removesuffix(PART), types_first)
    if not found:
        raise error(f"Unknown operator {word!r} in {where}: {selection.unknown(word)}")
    return found


def _folded(text: str) -> str:
    return text.lower().replace("_", "")
