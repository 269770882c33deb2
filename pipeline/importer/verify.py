"""Verifies an import: the float program and the ONNX file must compute the same for a sample.

The file is evaluated independently: by ONNX Runtime where that is installed, otherwise node by node by ONNX's reference
implementation. The latter evaluation shares two things with the importer: it upgrades operators of sets before 13 by
`opsets`, and it inlines functions.
"""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from tvm import relax

from pipeline.errors import ModelError
from pipeline.importer.cutting import cut
from pipeline.importer.evaluation.model import EvaluationError, evaluate_model
from pipeline.importer.read import read_model
from pipeline.ir.dataflow import Dataflow
from pipeline.ir.program import Program, TensorSpec

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], dict[str, Array]]

TOLERANCE = 1e-3
"""Largest error, as `relative_error` defines it, with which an import is accepted."""

_TOLERANCES = {TensorProto.FLOAT16: 2e-2, TensorProto.BFLOAT16: 1e-1}
"""The same for models that compute in these element types, while the program computes in float32."""

_PERTURBATION = np.float32(1 + 2**-20)
"""How much inputs are changed to see whether an evaluator's own outputs hold still: some units in the last place."""

_ILL_CONDITIONED = 4.0, 0.5
"""Errors are accepted up to so many times what the outputs move with perturbed inputs, and up to this error."""

_NEGLIGIBLE = 1e-6
"""Least magnitude that differences are relative to, so that rounding errors around 0 don't count."""

REFERENCE_SECONDS = 60.0
"""Time limit of ONNX's reference implementation."""


@dataclass(frozen=True)
class ImportCheck:
    """The result of verifying an import.

    Attributes:
        evaluator: name and version of what evaluated the ONNX file; None if nothing could.
        largest_error: largest error of an output, see `relative_error`; None if nothing was compared.
        seconds: how long the verification took.
        note: why evaluators failed that were tried before, or all of them; "" if none did.
    """

    evaluator: str | None
    largest_error: float | None
    seconds: float
    note: str = ""


def verify_import(path: Path, program: Program, make_run: Callable[[Program], Run], feeds: Feeds) -> ImportCheck:
    """Compare an imported program with an independent evaluation of its ONNX file.

    Args:
        path: the ONNX file.
        program: the imported float program.
        make_run: returns a function that runs a float program.
        feeds: one sample: an array for each input, of the program's shapes and dtypes.

    Raises:
        ModelError: the two differ; the message names the first tensor that does.
    """
    start = time.perf_counter()
    model, _ = read_model(path)
    source: Path | None = path
    ends = [output.name for output in program.outputs]
    if ends != [output.name for output in model.graph.output]:
        cut(model, ends)
        source = None
    comparison = _Comparison(path, source, model, program, make_run, feeds, _tolerance(model))
    failures = []
    for evaluator in _evaluators():
        try:
            expected = evaluator.run(source, model, {**feeds, **program.fixed}, [])
        except EvaluationError as error:
            failures.append(f"{evaluator.name}: {error}")
            continue
        largest = comparison.largest_error(evaluator, expected)
        return ImportCheck(evaluator.name, largest, time.perf_counter() - start, "; ".join(failures))
    return ImportCheck(None, None, time.perf_counter() - start, "; ".join(failures))


def example_feeds(inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return random inputs to verify with if there are no samples: normally distributed floats, integers 0 and 1."""
    random = np.random.default_rng(0)
    values: dict[str, Array] = {}
    for spec in inputs:
        floats = np.dtype(spec.dtype).kind not in "iub"
        made = random.standard_normal(spec.shape) if floats else random.integers(0, 2, spec.shape)
        values[spec.name] = np.asarray(made, spec.dtype)
    return values


def relative_error(expected: Array, actual: Array) -> float:
    """Return the largest difference divided by the largest expected magnitude; for integers, the share that differs.

    Infinity if the shapes or dtypes differ, or if infinities and NaN aren't at the same places.
    """
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    if expected.dtype.kind in "iub":
        return float(np.mean(expected != actual)) if expected.size else 0.0
    a, b = expected.astype("float64"), actual.astype("float64")
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    return float(np.abs(a - b).max() / max(np.abs(a).max(), _NEGLIGIBLE))


@dataclass(frozen=True)
class _Evaluator:
    """A program that evaluates ONNX files.

    Attributes:
        name: its name and version.
        run: evaluates a model (its path, None if no file has it as it is, and the model) on one sample, and returns the
            values of the outputs and of those named tensors that it knows. It raises EvaluationError if it can't.
    """

    name: str
    run: Callable[[Path | None, onnx.ModelProto, Feeds, Sequence[str]], dict[str, Array]]


def _evaluators() -> Iterator[_Evaluator]:
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        yield _Evaluator(f"ONNX Runtime {onnxruntime.__version__}", _run_onnxruntime)
    yield _Evaluator(f"ONNX reference {onnx.__version__}", _run_reference)


def _run_onnxruntime(
    path: Path | None, model: onnx.ModelProto, feeds: Feeds, wanted: Sequence[str]
) -> dict[str, Array]:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    # Differences by its optimizations, mostly of quantized models, would be taken for ours.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    failures = tuple(v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception))
    source: Any = str(path)
    if wanted or path is None:
        extended = onnx.ModelProto()
        extended.CopyFrom(model)
        known = {o.name for o in extended.graph.output}
        extended.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in known)
        source = extended.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        given = {i.name: feeds[i.name] for i in session.get_inputs() if i.name in feeds}
        return dict(zip(names, session.run(names, given), strict=True))
    except failures as error:
        raise EvaluationError(str(error).splitlines()[0]) from error


def _run_reference(path: Path | None, model: onnx.ModelProto, feeds: Feeds, wanted: Sequence[str]) -> dict[str, Array]:
    del path
    kept = {o.name for o in model.graph.output} | set(wanted)
    values = evaluate_model(model, feeds, REFERENCE_SECONDS)
    return {name: value for name, value in values if name in kept}


def _tolerance(model: onnx.ModelProto) -> float:
    types = {t.data_type for t in model.graph.initializer}
    types |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.value_info)}
    types |= {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    return max((t for dtype, t in _TOLERANCES.items() if dtype in types), default=TOLERANCE)


@dataclass(frozen=True)
class _Comparison:
    """A comparison of a program with its ONNX file on one sample; for the attributes see `verify_import`.

    `source` is the file if the program has the same outputs, None if the model was cut.
    """

    path: Path
    source: Path | None
    model: onnx.ModelProto
    program: Program
    make_run: Callable[[Program], Run]
    feeds: Feeds
    tolerance: float

    def largest_error(self, evaluator: _Evaluator, expected: Mapping[str, Array]) -> float:
        """Return the largest error of an output.

        Args:
            evaluator: what evaluated the ONNX file.
            expected: the outputs that it computed.

        Raises:
            ModelError: the error is larger than the tolerance.
        """
        actual = self.make_run(self.program)(self.feeds)
        errors = {o.name: relative_error(expected[o.name], actual[o.name]) for o in self.program.outputs}
        worst = max(errors, key=lambda name: errors[name])
        if errors[worst] <= self.tolerance or errors[worst] <= self._rounding_error(evaluator, expected, worst):
            return errors[worst]
        first = self._first_difference(evaluator)
        where = "" if first is None else f"The first tensor that differs is {first!r}. "
        raise ModelError(
            f"Model {self.path} isn't imported correctly: its output {worst!r} differs from what {evaluator.name} "
            f"computes by {errors[worst]:.1e} of its largest value, more than {self.tolerance:g}. {where}"
            "This is a bug of this package; please report it with the model. If the model's results are random, switch "
            "verification off (--no-verify-import)."
        )

    def _rounding_error(self, evaluator: _Evaluator, expected: Mapping[str, Array], name: str) -> float:
        """Return the error of an output that may come from rounding alone, as this sample's outputs aren't stable.

        That is so where a sample gives outputs which are nothing but what rounding left of larger numbers: a detector's
        probabilities of 1e-7 on a page without text.
        """
        perturbed = {
            key: (value * _PERTURBATION).astype(value.dtype) if value.dtype.kind == "f" else value
            for key, value in self.feeds.items()
        }
        try:
            moved = evaluator.run(self.source, self.model, {**perturbed, **self.program.fixed}, [])
        except EvaluationError:
            # It was quick enough only once, say: then nothing is known of rounding.
            return 0.0
        factor, limit = _ILL_CONDITIONED
        return min(factor * relative_error(expected[name], moved[name]), limit)

    def _first_difference(self, evaluator: _Evaluator) -> str | None:
        """Return the first tensor whose values in the ONNX file and in the program differ; None if it isn't known."""
        computed = {o for n in self.model.graph.node for o in n.output if o}
        bindings = Dataflow.of(self.program.module).bindings
        names: list[str] = [
            b.var.name for b in bindings if b.var.name in computed and isinstance(b.var.ty, relax.TensorType)
        ]
        if not names:
            return None
        try:
            expected = evaluator.run(self.source, self.model, {**self.feeds, **self.program.fixed}, names)
        except EvaluationError:
            # Only the outputs can be evaluated, so the first difference stays unknown.
            return None
        actual = self.make_run(self.program.with_outputs(names))(self.feeds)
        pairs = ((name, expected[name], actual[name]) for name in names if name in expected)
        return next((name for name, a, b in pairs if not _equal_in_any_layout(a, b, self.tolerance)), None)


def _equal_in_any_layout(expected: Array, actual: Array, tolerance: float) -> bool:
    """Return whether two tensors are equal up to a permutation or merging of axes, as programs keep images in NHWC."""
    if expected.size != actual.size:
        return False
    orders: Iterable[tuple[int, ...]] = itertools.permutations(range(expected.ndim))
    for order in itertools.islice(orders, 120):
        moved = expected.transpose(order)
        if relative_error(moved.reshape(actual.shape).astype(actual.dtype), actual) <= tolerance:
            return True
    return False
