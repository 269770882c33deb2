"""What a library records about its operators: multiply-adds, bytes and types."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from pipeline.ir.types import TensorType
from pipeline.library.metadata import ArtifactMetadata, read_metadata
from pipeline.ops import Add, Conv2d, Dense, Operator, QAvgPool2d, QConv2d, QDense
from tests.runtime.models import quantized_model


@dataclass(frozen=True)
class Work:
    name: str
    operator: Operator
    inputs: tuple[tuple[int, ...], ...]
    products: int


@pytest.mark.parametrize(
    "case",
    [
        Work("3x3", Conv2d(padding=(1, 1, 1, 1)), ((2, 5, 7, 3), (4, 3, 3, 3)), 2 * 5 * 7 * 4 * 27),
        Work("stride 2", QConv2d(strides=(2, 2)), ((1, 8, 8, 3), (4, 2, 2, 3)), 4 * 4 * 4 * 12),
        Work("depthwise", QConv2d(groups=6), ((1, 5, 5, 6), (6, 3, 3, 1)), 3 * 3 * 6 * 9),
        Work("a halo is no work", QConv2d(halo=(1, 1, 1, 1)), ((1, 4, 4, 3), (8, 1, 1, 3)), 4 * 4 * 8 * 3),
        Work("dense", QDense(), ((2, 3, 10), (4, 10)), 2 * 3 * 10 * 4),
        Work("float dense", Dense(), ((1, 10), (4, 10)), 40),
        Work("sums are none", Add(), ((1, 4), (1, 4)), 0),
        Work("nor are means", QAvgPool2d(pool_size=(4, 4)), ((1, 4, 4, 8), (1, 1)), 0),
    ],
    ids=lambda case: case.name,
)
def test_multiply_adds_are_those_of_the_definition(case: Work) -> None:
    assert case.operator.multiply_adds(*(TensorType(shape, "uint8") for shape in case.inputs)) == case.products


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> ArtifactMetadata:
    # For one CPU, whichever this is: how weights are arranged, and how many bytes that takes, is the instruction set's.
    return read_metadata(quantized_model().build("x86-64-v4-vnni", tmp_path_factory.mktemp("records") / "small.so"))


def test_an_operators_record_says_what_it_reads_and_writes(metadata: ArtifactMetadata) -> None:
    records = {o.name: o for o in metadata.operators}
    total, scores = records["s"], records["logits"]
    assert (total.operator, total.multiply_adds) == ("qnn.conv2d_add", 12 * 12 * 16 * 16 * 9)
    # What is added lies in the halo that the convolution needs.
    assert total.inputs == (TensorType((1, 14, 14, 16), "uint8"), TensorType((1, 14, 14, 16), "uint8"))
    assert total.output == TensorType((1, 12, 12, 16), "uint8")
    # Weights, and for each channel bias and multiplier.
    assert total.constant_bytes == 16 * (16 * 9 + 4 + 4)
    assert total.moved_bytes == total.constant_bytes + 2 * 14 * 14 * 16 + 12 * 12 * 16
    assert (scores.operator, scores.multiply_adds) == ("qnn.dense", 16 * 10)


def test_a_record_is_one_of_float_only_without_integers(metadata: ArtifactMetadata) -> None:
    in_float = {o.name for o in metadata.operators if o.in_float}
    assert "probability" in in_float
    assert not in_float & {"r1", "s", "g", "logits"}


def test_outputs_have_the_models_names(metadata: ArtifactMetadata) -> None:
    assert {o.name for o in metadata.outputs} <= {o.name for o in metadata.operators}


def test_a_library_of_the_first_schema_is_still_read(metadata: ArtifactMetadata) -> None:
    data = msgspec.to_builtins(metadata) | {"schema_version": 1}
    del data["operators"]
    assert msgspec.convert(data, ArtifactMetadata).operators == ()
