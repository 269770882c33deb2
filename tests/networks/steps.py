"""The steps that a random network is made of: each takes a tensor and returns what it made of it.

Images are NCHW, sequences NCT, tokens NTC, vectors NC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.networks.drawing import Drawing

Step = Callable[[Drawing, str], "list[str]"]


@dataclass(frozen=True)
class Choice:
    """A step, for tensors of one kind.

    Attributes:
        kind: of the tensor that it takes: "image", "sequence", "tokens" or "vector".
        weight: how often it is drawn, relative to the others.
        step: the step.
        result: kind of the tensors that it returns.
    """

    kind: str
    weight: float
    step: Step
    result: str


STEPS: list[Choice] = []


def step(weight: float, *kinds: str, result: str | None = None) -> Callable[[Step], Step]:
    """Register a step for tensors of these kinds; its results are of the same kind unless another is named."""

    def register(function: Step) -> Step:
        STEPS.extend(Choice(kind, weight, function, result or kind) for kind in kinds)
        return function

    return register


EVERYWHERE = ("image", "sequence", "tokens", "vector")


# Convolutions


def convolution(d: Drawing, x: str, channels_out: int, kernel: tuple[int, ...], groups: int = 1, **attrs: Any) -> str:
    """Add a convolution with the weights that its attributes ask for; x: NC and one or two spatial axes."""
    depth = d.shape(x)[1] // groups
    inputs = [d.weight(channels_out, depth, *kernel, fan_in=depth * int(np.prod(kernel)))]
    if d.chance(0.7):
        inputs.append(d.weight(channels_out))
    return d.node("Conv", x, *inputs, group=groups, **attrs)


def window(d: Drawing, size: tuple[int, ...], strides: tuple[int, ...] = (1, 1, 1, 2, 2, 3)) -> dict[str, Any]:
    """Draw a convolution's window for an image of this size: at least one place fits in the padded image."""
    kernel, stride, dilation, before, after = [], [], [], [], []
    for length in size:
        k = d.choose(1, 1, 2, 3, 3, 3, 5)
        rate = d.choose(1, 1, 1, 2)
        pads = [d.integer(0, k // 2 * rate) for _ in range(2)] if d.chance(0.3) else [k // 2 * rate] * 2
        if length + sum(pads) < (k - 1) * rate + 1:
            k, rate, pads = 1, 1, [0, 0]
        kernel.append(k)
        dilation.append(rate)
        before.append(pads[0])
        after.append(pads[1])
        stride.append(d.choose(*strides) if length > 3 else 1)
    attrs = {"kernel_shape": kernel, "strides": stride, "pads": before + after}
    return attrs | ({"dilations": dilation} if max(dilation) > 1 else {})


def channels(d: Drawing) -> int:
    return d.choose(1, 2, 3, 5, 7, 8, 12, 16, 17, 19, 24, 32, 33, 40)


@step(8, "image", "sequence")
def plain_convolution(d: Drawing, x: str) -> list[str]:
    attrs = window(d, d.shape(x)[2:])
    if d.chance(0.15) and "dilations" not in attrs:
        del attrs["pads"]
        attrs["auto_pad"] = d.choose("SAME_UPPER", "SAME_LOWER")
    return [activated(d, normalized(d, convolution(d, x, channels(d), tuple(attrs["kernel_shape"]), **attrs)))]


@step(2, "image")
def pointwise_convolution(d: Drawing, x: str) -> list[str]:
    return [activated(d, convolution(d, x, channels(d), (1, 1)))]


@step(3, "image", "sequence")
def depthwise_convolution(d: Drawing, x: str) -> list[str]:
    count, attrs = d.shape(x)[1], window(d, d.shape(x)[2:])
    y = convolution(d, x, count * d.choose(1, 1, 1, 2, 3), tuple(attrs["kernel_shape"]), groups=count, **attrs)
    return [activated(d, normalized(d, y))]


@step(1, "image", "sequence")
def grouped_convolution(d: Drawing, x: str) -> list[str]:
    count, attrs = d.shape(x)[1], window(d, d.shape(x)[2:])
    groups = d.choose(*[g for g in range(1, count + 1) if count % g == 0])
    y = convolution(d, x, groups * d.integer(1, 5), tuple(attrs["kernel_shape"]), groups=groups, **attrs)
    return [activated(d, y)]


@step(1.5, "image", "sequence")
def transposed_convolution(d: Drawing, x: str) -> list[str]:
    count, size = d.shape(x)[1], d.shape(x)[2:]
    if max(size) > 12:
        return []
    groups = d.choose(1, 1, 1, count)
    kernel, strides = [d.integer(1, 4) for _ in size], [d.integer(1, 3) for _ in size]
    # No padding takes away more than there is, and no stride leaves holes behind the last pixel.
    pads = [d.integer(0, (k - 1) // 2) for k in kernel]
    extra = [d.integer(0, s - 1) if d.chance(0.3) else 0 for s in strides]
    inputs = [d.weight(count, d.integer(1, 9), *kernel, fan_in=count)]
    if d.chance(0.5):
        inputs.append(d.weight(d.shape(inputs[0])[1] * groups))
    attrs = {"kernel_shape": kernel, "strides": strides, "pads": pads * 2, "output_padding": extra, "group": groups}
    return [activated(d, d.node("ConvTranspose", x, *inputs, **attrs))]


@step(4, "image", "sequence")
def residual(d: Drawing, x: str) -> list[str]:
    count, axes = d.shape(x)[1], len(d.shape(x)) - 2
    y = activated(d, normalized(d, convolution(d, x, channels(d), (3,) * axes, pads=[1] * 2 * axes)))
    y = normalized(d, convolution(d, y, count, (3,) * axes, pads=[1] * 2 * axes))
    return [activated(d, d.node("Add", *d.choose((x, y), (y, x))))]


@step(4, "image")
def inverted_residual(d: Drawing, x: str) -> list[str]:
    count = d.shape(x)[1]
    wide = min(count * d.choose(2, 3, 6), 60)
    y = activated(d, convolution(d, x, wide, (1, 1)))
    kernel = d.choose(3, 5)
    y = activated(d, convolution(d, y, wide, (kernel, kernel), groups=wide, pads=[kernel // 2] * 4))
    if d.chance(0.4):
        (y,) = gate(d, y)
    return [d.node("Add", convolution(d, y, count, (1, 1)), x)]


@step(1.5, "image")
def gate(d: Drawing, x: str) -> list[str]:
    """A squeeze-excite block."""
    count = d.shape(x)[1]
    squeezed = d.node("GlobalAveragePool", x) if d.chance(0.6) else mean_of(d, x, [2, 3])
    squeezed = d.node("Relu", convolution(d, squeezed, max(1, count // 4), (1, 1)))
    factor = d.node(d.choose("Sigmoid", "HardSigmoid"), convolution(d, squeezed, count, (1, 1)))
    return [d.node("Mul", *d.choose((x, factor), (factor, x)))]


def normalized(d: Drawing, x: str) -> str:
    """Add a batch normalization now and then."""
    if not d.chance(0.3):
        return x
    count = d.shape(x)[1]
    positive = d.constant((d.random.random(count) + 0.5).astype("float32"))
    return d.node("BatchNormalization", x, positive, d.weight(count), d.weight(count), positive)


# Activations


def activated(d: Drawing, x: str) -> str:
    """Add an activation, in most cases."""
    return activation(d, x)[0] if d.chance(0.75) else x


@step(1.5, *EVERYWHERE)
def activation(d: Drawing, x: str) -> list[str]:
    name = d.choose("Relu", "Relu", "Relu", "Clip", "Clip", *ACTIVATIONS)
    return [ACTIVATIONS[name](d, x) if name in ACTIVATIONS else d.node(name, x)]


def _clip(d: Drawing, x: str) -> str:
    low, high = d.choose((0.0, 6.0), (0.0, 1.0), (-1.0, 1.0), (-0.5, 3.0), (0.2, 0.7))
    if d.chance(0.2):
        return d.node("Clip", x, *d.choose(("", _scalar(d, high)), (_scalar(d, low),)))
    return d.node("Clip", x, _scalar(d, low), _scalar(d, high))


def _scalar(d: Drawing, value: float) -> str:
    return d.constant(np.float32(value))


def _swish(d: Drawing, x: str) -> str:
    return d.node("Mul", x, d.node("Sigmoid", x))


def _hard_swish(d: Drawing, x: str) -> str:
    """As PyTorch's older exports spell it."""
    shifted = d.node("Clip", d.node("Add", x, _scalar(d, 3.0)), _scalar(d, 0.0), _scalar(d, 6.0))
    return d.node("Div", d.node("Mul", x, shifted), _scalar(d, 6.0))


def _gelu(d: Drawing, x: str) -> str:
    half = d.node("Add", d.node("Erf", d.node("Div", x, _scalar(d, 2**0.5))), _scalar(d, 1.0))
    return d.node("Mul", d.node("Mul", x, half), _scalar(d, 0.5))


def _prelu(d: Drawing, x: str) -> str:
    rank = len(d.shape(x))
    channel_axis = 2 if rank == 3 and d.chance(0.5) else 1
    shape = [1] * rank
    shape[channel_axis] = d.shape(x)[channel_axis] if d.chance(0.7) else 1
    return d.node("PRelu", x, d.constant(d.random.random(shape[1:]).astype("float32")))


def _mish(d: Drawing, x: str) -> str:
    return d.node("Mul", x, d.node("Tanh", d.node("Softplus", x)))


ACTIVATIONS: dict[str, Callable[[Drawing, str], str]] = {
    "Clip": _clip,
    "LeakyRelu": lambda d, x: d.node("LeakyRelu", x, alpha=d.choose(0.01, 0.1, 0.3)),
    "Sigmoid": lambda d, x: d.node("Sigmoid", x),
    "Tanh": lambda d, x: d.node("Tanh", x),
    "HardSwish": lambda d, x: d.node("HardSwish", x),
    "HardSigmoid": lambda d, x: d.node("HardSigmoid", x, alpha=d.choose(0.2, 1 / 6), beta=0.5),
    "Elu": lambda d, x: d.node("Elu", x),
    "Softplus": lambda d, x: d.node("Softplus", x),
    "swish": _swish,
    "hard swish": _hard_swish,
    "gelu": _gelu,
    "PRelu": _prelu,
    "mish": _mish,
}


@step(0.4, *EVERYWHERE)
def other_function(d: Drawing, x: str) -> list[str]:
    name = d.choose("Abs", "Neg", "Erf", "Softsign", "sqrt", "exp", "square")
    if name == "sqrt":
        return [d.node("Sqrt", d.node("Relu", x))]
    if name == "exp":
        return [d.node("Exp", d.node("Clip", x, _scalar(d, -4.0), _scalar(d, 1.0)))]
    if name == "square":
        return [d.node("Mul", x, x)]
    return [d.node(name, x)]


# Pools and sizes


@step(2, "image", "sequence")
def pool(d: Drawing, x: str) -> list[str]:
    size = d.shape(x)[2:]
    kernel = [min(d.integer(1, 4), length) for length in size]
    strides = [d.integer(1, 2) for _ in size]
    pads = [d.integer(0, k // 2) for k in kernel * 2] if d.chance(0.6) else [0] * 2 * len(size)
    attrs: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    # A last window behind the image counts for ONNX's own shape inference, and doesn't for anybody who computes it.
    if d.chance(0.3) and all(s <= k for s, k in zip(strides, kernel, strict=True)):
        attrs["ceil_mode"] = 1
    if d.chance(0.5):
        reach = [(k - 1) * 2 + 1 <= length for k, length in zip(kernel, size, strict=True)]
        if all(reach) and d.chance(0.2):
            attrs["dilations"] = [2] * len(size)
        return [d.node("MaxPool", x, **attrs)]
    return [d.node("AveragePool", x, count_include_pad=int(d.chance(0.5)), **attrs)]


def mean_of(d: Drawing, x: str, axes: list[int], keepdims: bool = True) -> str:
    if d.opset >= 18:
        return d.node("ReduceMean", x, d.constant(np.array(axes)), keepdims=int(keepdims))
    return d.node("ReduceMean", x, axes=axes, keepdims=int(keepdims))


@step(0.5, "image", "sequence", "tokens")
def reduction(d: Drawing, x: str) -> list[str]:
    operator, axis = d.choose("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum"), d.integer(1, len(d.shape(x)) - 1)
    # ReduceSum takes its axes as an input since operator set 13, the others since 18.
    if operator == "ReduceSum" or d.opset >= 18:
        return [d.node(operator, x, d.constant(np.array([axis])), keepdims=1)]
    return [d.node(operator, x, axes=[axis], keepdims=1)]


@step(1, "image", result="vector")
def head(d: Drawing, x: str) -> list[str]:
    if d.chance(0.3):
        return [mean_of(d, x, [2, 3], keepdims=False)]
    if d.chance(0.2):
        return [d.node("Flatten", d.node("GlobalMaxPool", x))]
    return [d.node("Flatten", d.node("GlobalAveragePool", x))]


@step(0.5, "image", "sequence", "tokens", result="vector")
def flatten(d: Drawing, x: str) -> list[str]:
    if int(np.prod(d.shape(x)[1:])) > 2000:
        return []
    if d.chance(0.5):
        return [d.node("Flatten", x)]
    return [d.node("Reshape", x, d.constant(np.array([d.shape(x)[0], -1])))]


@step(0.5, "image", "sequence", result="vector")
def flatten_by_shape(d: Drawing, x: str) -> list[str]:
    """Flatten with a shape that the network works out, as PyTorch exports `x.view(x.size(0), -1)`."""
    if int(np.prod(d.shape(x)[1:])) > 2000:
        return []
    batch = d.node("Gather", d.node("Shape", x), d.constant(np.array(0)), axis=0)
    batch = d.node("Unsqueeze", batch, d.constant(np.array([0])))
    return [d.node("Reshape", x, d.node("Concat", batch, d.constant(np.array([-1])), axis=0))]


@step(1.5, "image")
def resize(d: Drawing, x: str) -> list[str]:
    height, width = d.shape(x)[2:]
    if max(height, width) > 10:
        return []
    mode = d.choose(
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    )
    if d.chance(0.5):
        factor = d.choose((2, 2), (2, 1), (3, 2))
        return [d.node("Resize", x, "", d.constant(np.array([1, 1, *factor], "float32")), **mode)]
    sizes = np.array([*d.shape(x)[:2], d.integer(2, 14), d.integer(2, 14)])
    return [d.node("Resize", x, "", "", d.constant(sizes), **mode)]


@step(1, "image")
def space_and_depth(d: Drawing, x: str) -> list[str]:
    count, height, width = d.shape(x)[1:]
    if count % 4 == 0 and d.chance(0.6):
        return [d.node("DepthToSpace", x, blocksize=2, mode=d.choose("DCR", "CRD"))]
    if height % 2 == 0 and width % 2 == 0 and count <= 16:
        return [d.node("SpaceToDepth", x, blocksize=2)]
    return []


@step(0.7, "image", "sequence")
def pad(d: Drawing, x: str) -> list[str]:
    size = d.shape(x)[2:]
    mode = d.choose("constant", "constant", "reflect", "edge")
    before, after = ([d.integer(0, min(2, length - 1)) for length in size] for _ in range(2))
    pads = d.constant(np.array([0, 0, *before, 0, 0, *after]))
    value = [_scalar(d, d.choose(0.0, 0.5, -1.0))] if mode == "constant" and d.chance(0.5) else []
    return [d.node("Pad", x, pads, *value, mode=mode)]


# Parts and permutations


@step(1, "image", "sequence", "tokens")
def parts(d: Drawing, x: str) -> list[str]:
    axis = d.integer(1, len(d.shape(x)) - 1)
    length = d.shape(x)[axis]
    if length < 2:
        return []
    cut = d.integer(1, length - 1)
    sizes = d.constant(np.array([cut, length - cut]))
    return d.nodes("Split", x, sizes, outputs=2, axis=axis)


@step(1, "image", "sequence", "tokens", "vector")
def part(d: Drawing, x: str) -> list[str]:
    axis = d.integer(1, len(d.shape(x)) - 1)
    length = d.shape(x)[axis]
    if length < 3:
        return []
    start, stride = d.integer(0, 1), d.choose(1, 1, 2)
    bounds = [start], [d.choose(length, length - 1, 2**31 - 1)], [axis], [stride]
    return [d.node("Slice", x, *(d.constant(np.array(b)) for b in bounds))]


@step(0.3, "image", "sequence", "tokens")
def gathered(d: Drawing, x: str) -> list[str]:
    axis = d.integer(1, len(d.shape(x)) - 1)
    length = d.shape(x)[axis]
    indices = d.random.integers(-length, length, d.integer(1, length))
    return [d.node("Gather", x, d.constant(indices), axis=axis)]


@step(1, "image")
def shuffle(d: Drawing, x: str) -> list[str]:
    batch, count, height, width = d.shape(x)
    groups = d.choose(*[g for g in range(1, count + 1) if count % g == 0])
    y = d.node("Reshape", x, d.constant(np.array([batch, groups, count // groups, height, width])))
    y = d.node("Transpose", y, perm=[0, 2, 1, 3, 4])
    return [d.node("Reshape", y, d.constant(np.array([batch, count, height, width])))]


@step(1, "image")
def channels_last(d: Drawing, x: str) -> list[str]:
    """To NHWC and back, with something between, as in models that come from TensorFlow."""
    y = d.node("Transpose", x, perm=[0, 2, 3, 1])
    count = d.shape(y)[-1]
    between = d.choose("scale", "activation", "matrix", "nothing", "add")
    if between == "scale":
        y = d.node(d.choose("Mul", "Add"), y, d.weight(count))
    elif between == "activation":
        y = d.node(d.choose("Relu", "Sigmoid", "Tanh"), y)
    elif between == "matrix":
        y = d.node("MatMul", y, d.weight(count, d.integer(1, 20), fan_in=count))
    elif between == "add":
        y = d.node("Add", y, y)
    return [d.node("Transpose", y, perm=[0, 3, 1, 2])]


@step(0.5, "image", result="image")
def turned(d: Drawing, x: str) -> list[str]:
    return [d.node("Transpose", x, perm=[0, 1, 3, 2])]


@step(1, "image", result="tokens")
def to_tokens(d: Drawing, x: str) -> list[str]:
    batch, count = d.shape(x)[:2]
    y = d.node("Reshape", x, d.constant(np.array(d.choose([batch, count, -1], [0, 0, -1]))))
    return [d.node("Transpose", y, perm=[0, 2, 1])]


@step(0.7, "image", result="sequence")
def to_sequence(d: Drawing, x: str) -> list[str]:
    batch, count = d.shape(x)[:2]
    return [d.node("Reshape", x, d.constant(np.array([batch, count, -1])))]


@step(1, "sequence", result="tokens")
def sequence_to_tokens(d: Drawing, x: str) -> list[str]:
    return [d.node("Transpose", x, perm=[0, 2, 1])]


@step(1, "tokens", result="sequence")
def tokens_to_sequence(d: Drawing, x: str) -> list[str]:
    return [d.node("Transpose", x, perm=[0, 2, 1])]


@step(1, "tokens", "sequence", result="image")
def to_image(d: Drawing, x: str) -> list[str]:
    batch, first, second = d.shape(x)
    height = max(h for h in range(1, int(second**0.5) + 1) if second % h == 0)
    return [d.node("Reshape", x, d.constant(np.array([batch, first, height, second // height])))]


@step(0.7, "vector", result="image")
def vector_to_image(d: Drawing, x: str) -> list[str]:
    if d.chance(0.5):
        return [d.node("Unsqueeze", x, d.constant(np.array([2, 3])))]
    return [d.node("Reshape", x, d.constant(np.array([*d.shape(x), 1, 1])))]


# Sums and products with constants


@step(0.7, *EVERYWHERE)
def constant_operand(d: Drawing, x: str) -> list[str]:
    shape = d.shape(x)
    channel_axis = 1 if len(shape) in (2, 4) else d.choose(1, 2)
    per_channel = [1] * len(shape)
    per_channel[channel_axis] = shape[channel_axis]
    operand = d.weight(*d.choose([1], per_channel, per_channel[1:], list(shape[1:])))
    operator = d.choose("Add", "Mul", "Sub", "Mul", "Max", "Min")
    return [d.node(operator, *d.choose((x, operand), (operand, x)))]


# Dense layers, attention, normalization


@step(3, "vector")
def dense(d: Drawing, x: str) -> list[str]:
    depth, size = d.shape(x)[1], d.integer(1, 40)
    if d.chance(0.3):
        y = d.node("MatMul", x, d.weight(depth, size, fan_in=depth))
        return [activated(d, d.node("Add", y, d.weight(size)))]
    transposed = d.chance(0.5)
    weight = d.weight(*((size, depth) if transposed else (depth, size)), fan_in=depth)
    bias = [d.weight(size)] if d.chance(0.8) else []
    return [activated(d, d.node("Gemm", x, weight, *bias, transB=int(transposed)))]


@step(3, "tokens")
def token_dense(d: Drawing, x: str) -> list[str]:
    return [activated(d, _project(d, x, d.integer(1, 40)))]


def _project(d: Drawing, x: str, size: int) -> str:
    depth = d.shape(x)[-1]
    y = d.node("MatMul", x, d.weight(depth, size, fan_in=depth))
    return d.node("Add", *d.choose((y, d.weight(size)), (d.weight(size), y))) if d.chance(0.7) else y


@step(2, "tokens")
def attention(d: Drawing, x: str) -> list[str]:
    batch, length, depth = d.shape(x)
    if length > 64:
        return []
    heads, width = d.choose(1, 2, 3), d.choose(4, 5, 8)
    split = d.constant(np.array([batch, length, heads, width]))
    query, key, value = (d.node("Reshape", _project(d, x, heads * width), split) for _ in range(3))
    query, value = (d.node("Transpose", t, perm=[0, 2, 1, 3]) for t in (query, value))
    scores = d.node("MatMul", query, d.node("Transpose", key, perm=[0, 2, 3, 1]))
    scores = d.node("Mul", scores, _scalar(d, width**-0.5)) if d.chance(0.7) else scores
    mixed = d.node("MatMul", d.node("Softmax", scores, axis=-1), value)
    mixed = d.node("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = d.node("Reshape", mixed, d.constant(np.array([batch, length, heads * width])))
    return [d.node("Add", _project(d, mixed, depth), x)]


@step(0.8, "tokens", "vector")
def layer_normalization(d: Drawing, x: str) -> list[str]:
    size = d.shape(x)[-1]
    if size < 4:
        return []
    scale, shift = d.weight(size), d.weight(size)
    if d.opset >= 17 and d.chance(0.6):
        return [d.node("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-2)]
    centred = d.node("Sub", x, mean_of(d, x, [-1]))
    variance = mean_of(d, d.node("Mul", centred, centred), [-1])
    deviation = d.node("Sqrt", d.node("Add", variance, _scalar(d, 1e-2)))
    return [d.node("Add", d.node("Mul", d.node("Div", centred, deviation), scale), shift)]


@step(0.5, "image", "sequence")
def instance_normalization(d: Drawing, x: str) -> list[str]:
    count = d.shape(x)[1]
    if int(np.prod(d.shape(x)[2:])) < 4:
        return []
    return [d.node("InstanceNormalization", x, d.weight(count), d.weight(count), epsilon=1e-2)]


@step(0.4, "image", "tokens", "vector")
def unit_length(d: Drawing, x: str) -> list[str]:
    """Divide by the length over the channels, as embeddings are."""
    axis = 1 if len(d.shape(x)) == 4 else -1
    square = d.node("Pow", x, _scalar(d, 2.0)) if d.chance(0.5) else d.node("Mul", x, x)
    total = d.node("ReduceSum", square, d.constant(np.array([axis])), keepdims=1)
    return [d.node("Div", x, d.node("Sqrt", d.node("Add", total, _scalar(d, 1e-2))))]


@step(0.3, *EVERYWHERE)
def softmax(d: Drawing, x: str) -> list[str]:
    return [d.node("Softmax", x, axis=d.choose(-1, -1, 1))]


@step(0.7, "tokens", "sequence", result="vector")
def token_mean(d: Drawing, x: str) -> list[str]:
    return [mean_of(d, x, [d.choose(1, 2)], keepdims=False)]
