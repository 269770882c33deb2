"""A network that grows node by node; each node is evaluated at once, so its shape and values are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Network:
    """A model, and what was drawn with it.

    Attributes:
        seed: what `random_network` makes it from.
        model: the ONNX model.
        spread: of its inputs' values, which are normally distributed.
        mean: of its inputs' values.
    """

    seed: int
    model: onnx.ModelProto
    spread: float
    mean: float

    def samples(self, count: int) -> list[dict[str, Array]]:
        """Return inputs by name, the same ones each time."""
        random = np.random.default_rng(self.seed)
        return [
            {
                i.name: (random.standard_normal(shape_of(i)) * self.spread + self.mean).astype("float32")
                for i in self.model.graph.input
            }
            for _ in range(count)
        ]


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


class Drawing:
    """Collects the nodes of a network.

    Attributes:
        random: where all choices come from.
        opset: version of ONNX's operators.
        values: the value of every tensor so far, for one input.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.seed = seed
        self.opset = self.choose(15, 17, 20)
        self.spread, self.mean = self.choose((1.0, 0.0), (1.0, 0.0), (0.3, 0.5), (30.0, 0.0), (0.05, 1.0))
        self.values: dict[str, Array] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[str] = []

    def choose(self, *options: T) -> T:
        return options[int(self.random.integers(len(options)))]

    def integer(self, low: int, high: int) -> int:
        """Return one of low, ..., high."""
        return int(self.random.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.values[name].shape)

    def input(self, *shape: int) -> str:
        name = f"x{len(self._inputs)}"
        self._inputs.append(name)
        self.values[name] = (self.random.standard_normal(shape) * self.spread + self.mean).astype("float32")
        return name

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(array, name))
        self.values[name] = array
        return name

    def weight(self, *shape: int, fan_in: int = 1) -> str:
        """Return normally distributed weights; now and then some are zero, or much larger than the rest."""
        value = self.random.standard_normal(shape) / np.sqrt(fan_in)
        if self.chance(0.1):
            value[self.integer(0, shape[0] - 1)] *= self.choose(0.0, 30.0, 1e-3)
        return self.constant(value.astype("float32"))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.nodes(operator, *inputs, outputs=1, **attributes)[0]

    def nodes(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs; return their names."""
        names = [f"t{len(self._nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        node = helper.make_node(operator, list(inputs), names, **attributes)
        self.values.update(zip(names, self._evaluate(node), strict=True))
        self._nodes.append(node)
        return names

    def finish(self, outputs: Sequence[str]) -> Network:
        """Return the network with some of its tensors as outputs."""
        inputs = [helper.make_tensor_value_info(i, TensorProto.FLOAT, self.shape(i)) for i in self._inputs]
        results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, self.shape(o)) for o in outputs]
        graph = helper.make_graph(self._nodes, f"network{self.seed}", inputs, results, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        return Network(self.seed, model, self.spread, self.mean)

    def _evaluate(self, node: onnx.NodeProto) -> list[Array]:
        feeds = {i: self.values[i] for i in node.input if i}
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in feeds.items()
        ]
        graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=o) for o in node.output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        return run(model, feeds)


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Return what ONNX Runtime computes, node by node as the model says."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))
