"""Models damaged at random, and what becomes of them: they are imported, or refused in one sentence.

    python -m tests.importer.damaged_models --number 100000 [--seed 0] [--whole]

tries any number, and prints how many ended how. Memory and time are limited: a model that makes the reader take much
more of either than the undamaged one fails, too. `--whole` imports what passes the checks.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
from google.protobuf.message import Message
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from pipeline.errors import PipelineError
from pipeline.importer import import_model
from pipeline.importer.read import read_model
from tests.models import ModelBuilder, small_network

MEMORY = 1024**3
"""Bytes beside what the imported modules take."""

SECONDS = 20
"""A model takes a fraction of one, on any machine."""

Random = np.random.Generator


def damaged(data: bytes, random: Random) -> bytes:
    """Return a model's bytes with one to four damages, of the bytes or of the fields in them."""
    for _ in range(random.integers(1, 5)):
        kind = random.random()
        way = _reshape if kind < 0.2 else _field if kind < 0.7 else _BYTES[random.integers(len(_BYTES))]
        data = way(data, random)
    return data


def _flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.integers(1, 9)):
        changed[random.integers(len(changed))] ^= 1 << random.integers(8)
    return bytes(changed)


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.integers(1, len(data) + 1)]


def _cut(data: bytes, random: Random) -> bytes:
    start = random.integers(len(data))
    return data[:start] + data[start + random.integers(1, 33) :] or b"\0"


def _repeat(data: bytes, random: Random) -> bytes:
    start = random.integers(len(data))
    return data[:start] + data[start : start + random.integers(1, 33)] + data[start:]


def _overwrite(data: bytes, random: Random) -> bytes:
    start = random.integers(len(data))
    return data[:start] + random.bytes(random.integers(1, 9)) + data[start + 4 :]


_BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (_flip, _truncate, _cut, _repeat, _overwrite)

_NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 5, 8, 17, 99, 2**31 - 1, 2**40, 2**63 - 1)


def _field(data: bytes, random: Random) -> bytes:
    """Change, remove, repeat or move one field somewhere in a model; bytes that are no model stay as they are."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # the bytes were damaged before
        return data
    places = list(_messages(model))
    message = places[random.integers(len(places))]
    fields = list(message.DESCRIPTOR.fields)
    present = [f for f, _ in message.ListFields()] if random.random() < 0.8 else fields
    if present:
        field = present[random.integers(len(present))]
        try:
            _change(message, field, random, places)
        except (ValueError, TypeError):  # a value that this field can't have, such as an enumeration's
            message.ClearField(field.name)
    return model.SerializeToString() or b"\0"


def _reshape(data: bytes, random: Random) -> bytes:
    """Give a weight another shape of as many values, which nothing but the operator's own rules forbids."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # the bytes were damaged before
        return data
    weights = [m for m in _messages(model) if isinstance(m, TensorProto) and len(m.dims)]
    if not weights:
        return data
    tensor = weights[random.integers(len(weights))]
    dims = [int(d) for d in random.permutation(tensor.dims)]
    kind = random.integers(3)
    tensor.dims[:] = dims if kind == 0 else [1, *dims] if kind == 1 else [dims[0] * dims[-1], *dims[1:-1]]
    return model.SerializeToString()


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)


def _change(message: Message, field: object, random: Random, places: list[Message]) -> None:
    name, value = field.name, getattr(message, field.name)  # type: ignore[attr-defined]
    if not field.is_repeated:  # type: ignore[attr-defined]
        if field.message_type is not None or random.random() < 0.2:  # type: ignore[attr-defined]
            message.ClearField(name)
        else:
            setattr(message, name, _scalar(value, random, places))
        return
    kind = random.integers(4)
    if kind == 0 or not value:
        message.ClearField(name)
    elif kind == 1:
        del value[random.integers(len(value))]
    elif kind == 2:
        value.extend([value[random.integers(len(value))]])
    elif field.message_type is None:  # type: ignore[attr-defined]
        value[random.integers(len(value))] = _scalar(value[0], random, places)
    else:
        item = type(value[0])()
        item.CopyFrom(value[-1])
        del value[-1]
        value.insert(random.integers(len(value) + 1), item)


def _scalar(value: object, random: Random, places: list[Message]) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return _NUMBERS[random.integers(len(_NUMBERS))]
    if isinstance(value, float):
        return (0.0, -1.0, 1e-38, 1e38, float("inf"), float("nan"))[random.integers(6)]
    if isinstance(value, bytes):
        return value[: random.integers(len(value) + 1)] + random.bytes(random.integers(5))
    names = sorted({m.name for m in places if hasattr(m, "name")} | {"", "x" * 5000, "If", "Loop", "Constant", "main"})
    return names[random.integers(len(names))]


def models() -> dict[str, ModelProto]:
    """Return small models that have everything between them: branches, functions, every way to store a tensor."""
    return {"network": small_network(), "branches": _branches(), "storage": _storage(), "rules": _rules()}


def _branches() -> ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("x", "y", "b", "k")]
    going = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
    branch = helper.make_graph([helper.make_node("F", ["x"], ["b"], domain="ours")], "branch", [], values[2:3])
    turn = helper.make_graph(
        [helper.make_node("Identity", ["g"], ["going"]), helper.make_node("Add", ["s", "t"], ["k"])],
        "turn",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("g", 9, []),
            values[0],
        ],
        [going, values[3]],
    )
    turn.input[2].name = "s"
    nodes = [
        helper.make_node("If", ["flag"], ["t"], then_branch=branch, else_branch=branch),
        helper.make_node("Loop", ["count", "", "x"], ["y"], body=turn),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    inner = helper.make_node("LeakyRelu", ["a"], ["b"])
    inner.attribute.append(AttributeProto(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope"))
    slope = helper.make_attribute("slope", 0.5)
    function = helper.make_function("ours", "F", ["a"], ["b"], [inner], opsets, attribute_protos=[slope])
    weights = [numpy_helper.from_array(np.array(3), "count"), numpy_helper.from_array(np.array(True), "flag")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:2], weights)
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9)


def _storage() -> ModelProto:
    b = ModelBuilder(opset=19)
    y = "x"
    for dtype in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8):
        for raw in (False, True):
            stored = numpy_helper.from_array(np.ones(4, helper.tensor_dtype_to_np_dtype(dtype)))
            typed = helper.make_tensor("", dtype, [4], np.ones(4), raw=False)
            value = b.node("Constant", value=stored if raw else typed)
            y = b.node("Add", y, b.node("Cast", value, to=TensorProto.FLOAT))
    shape = b.node("Concat", b.node("Shape", y, end=1), b.constant(np.array([2, -1])), axis=0)
    filled = b.node("Mul", b.node("ConstantOfShape", b.constant(np.array([4]))), b.node("Constant", value_float=2.0))
    padded = b.node("Pad", b.node("Add", y, filled), b.constant(np.array([0, 1, 0, 1])))
    cut = b.node("Slice", padded, *(b.constant(np.array([v])) for v in (1, 5, 1, 1)))
    model = b.model({"x": (1, 4)}, b.node("Reshape", b.node("Expand", cut, b.constant(np.array([3, 1]))), shape))
    values, places = numpy_helper.from_array(np.ones(2, "float32"), "s"), numpy_helper.from_array(np.array([0, 3]), "")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))
    return model


def _rules() -> ModelProto:
    """Return a model of operators whose inputs must fit each other."""
    b = ModelBuilder()

    def ones(*shape: int) -> str:
        return b.constant(np.ones(shape, "float32"))

    y = b.node("BatchNormalization", "x", *(ones(4) for _ in range(4)))
    y = b.node("InstanceNormalization", b.node("PRelu", y, ones(4, 1, 1)), ones(4), ones(4))
    y = b.node("LayerNormalization", b.node("LRN", y, size=3), ones(6), ones(6))
    y = b.node("AveragePool", b.node("Conv", y, ones(4, 2, 1, 3), ones(4), group=2), kernel_shape=[2, 2])
    y = b.node("Gather", b.node("Transpose", y, perm=[0, 2, 3, 1]), b.constant(np.array([1, 0])), axis=1)
    y = b.node("Einsum", y, ones(4, 5), equation=b"abcd,de->abce")
    y = b.node("Where", b.node("Greater", y, ones(1, 1)), y, ones(5))
    y = b.node("Split", b.node("MatMul", y, ones(5, 6)), b.constant(np.array([6])), axis=-1)
    y = b.node("Tile", b.node("ReduceSum", y, b.constant(np.array([1])), keepdims=0), b.constant(np.array([1, 2, 1])))
    y = b.node("Clip", b.node("Softmax", b.node("Pow", y, ones()), axis=-1), ones(), ones())
    y = b.node("Concat", y, b.node("GatherElements", y, b.constant(np.zeros((1, 1, 6), "int64")), axis=1), axis=1)
    y = b.node("TopK", y, b.constant(np.array([2])), axis=-1)
    b.nodes[-1].output.append("indices")
    return b.model({"x": (1, 4, 5, 6)}, y)


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    def late(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise TimeoutError(f"more than {SECONDS} seconds")

    signal.signal(signal.SIGALRM, late)


def outcome(data: bytes, path: Path, *, whole: bool) -> str:
    """Return how the reader, or the whole import, ends on a file with these bytes.

    Raises:
        Exception: whatever isn't an error for the user.
    """
    path.write_bytes(data)
    signal.alarm(SECONDS)
    try:
        import_model(path) if whole else read_model(path)
    except PipelineError as error:
        if len(str(error)) > 20_000:
            raise ValueError("a message of more than 20,000 characters") from error
        return "refused"
    finally:
        signal.alarm(0)
    return "taken"


def main() -> None:
    """Try models, print a summary, and end with 1 if there was a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder for the models that fail")
    options = parser.parse_args()
    sources = {name: model.SerializeToString() for name, model in models().items()}
    counts: Counter[str] = Counter()
    _limit()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        for name, data in sources.items():
            assert outcome(data, path, whole=options.whole) == "taken", name
        for i in range(options.number):
            random = np.random.default_rng([options.seed, i])
            data = damaged(list(sources.values())[i % len(sources)], random)
            try:
                counts[outcome(data, path, whole=options.whole)] += 1
            except Exception:  # what the trial is for: anything that isn't an error for the user
                counts["failed"] += 1
                print(f"--- model {i}\n{traceback.format_exc(limit=-4)}", file=sys.stderr)
                if options.keep is not None:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{options.seed}-{i}.onnx").write_bytes(data)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    sys.exit(counts["failed"] > 0)


if __name__ == "__main__":
    main()
