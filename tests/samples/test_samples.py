"""Samples in every form, and every way in which they can be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conversion import ConversionError, convert
from pipeline.errors import OptionError, SampleError
from pipeline.files import StoredArray
from pipeline.ir.program import TensorSpec
from pipeline.samples import batch_of, feeds, named_feeds

ONE = (TensorSpec("x", (1, 3, 4), "float32"),)
TWO = (*ONE, TensorSpec("y", (1, 2), "int64"))
SCALE = TensorSpec("s", (1,), "float32")
X, Y = np.ones((3, 4), "float32"), np.ones(2, "int64")
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


def collected(samples: Any, inputs: Any = ONE, **options: Any) -> list[dict[str, np.ndarray]]:
    return list(feeds(samples, inputs, **options))


def test_a_folder_of_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", 2 * X)
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "c.npz", x=3 * X)
    assert [f["x"].flat[0] for f in collected(tmp_path)] == [1, 2, 3]


def test_a_generator_function() -> None:
    def generate() -> Iterator[np.ndarray]:
        yield X
        yield 2 * X

    assert len(collected(generate)) == 2


def test_the_batch_axis_may_be_there_or_not() -> None:
    assert [f["x"].shape for f in collected([X, X[None]])] == [(1, 3, 4)] * 2


def test_several_inputs_by_name_or_in_order() -> None:
    by_name, in_order = collected([{"y": Y, "x": X}, [X, Y]], TWO)
    np.testing.assert_equal(by_name, in_order)


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", "int8", "int64", "bool", ">f4"])
def test_values_are_converted_where_nothing_is_lost(dtype: str) -> None:
    (feed,) = collected([X.astype(dtype)])
    assert feed["x"].dtype == np.float32
    np.testing.assert_array_equal(feed["x"][0], X)


@given(st.integers(-(2**63), 2**64 - 1), st.sampled_from(INTEGERS), st.sampled_from([*INTEGERS, "bool", "float32"]))
def test_an_integer_is_converted_exactly_or_refused(value: int, given_as: str, wanted: str) -> None:
    limits = np.iinfo(given_as)
    array = np.array([min(max(value, limits.min), limits.max)], given_as)
    try:
        converted = convert(array, np.dtype(wanted))
    except ConversionError:
        with np.errstate(all="ignore"):
            lost = int(array.astype(wanted)[0]) != int(array[0]) or abs(int(array[0])) > 2**24
        assert lost
    else:
        assert converted.dtype == np.dtype(wanted)
        assert int(converted[0]) == int(array[0])


def test_floats_are_rounded_to_the_nearest() -> None:
    value = np.array([0.1, 1e-50, -0.0])
    np.testing.assert_array_equal(convert(value, np.dtype("float32")), value.astype("float32"))


def test_a_label_beside_the_inputs_is_left_out() -> None:
    plain = collected([X, 2 * X])
    np.testing.assert_equal(collected([(X, 3), [2 * X, np.array(4)]]), plain)
    np.testing.assert_equal(collected([({"x": X}, 3), ([2 * X], {"boxes": []})]), plain)
    both = collected([[X, Y]], TWO)
    np.testing.assert_equal(collected([(X, Y, 3)], TWO), both)
    np.testing.assert_equal(collected([((X, Y), 3)], TWO), both)


def test_a_list_of_samples_with_labels_is_a_batch() -> None:
    plain = collected([X, 2 * X, 3 * X])
    np.testing.assert_equal(collected([[(X, 0), (2 * X, 1), (3 * X, 2)]]), plain)
    np.testing.assert_equal(collected([[(X,)], [(2 * X, 1), (3 * X, 2)]]), plain)
    both = collected([(X, Y), (2 * X, Y), (3 * X, Y)], TWO)
    np.testing.assert_equal(collected([[(X, Y, 0), (2 * X, Y, 1), (3 * X, Y, 2)]], TWO), both)


def test_a_batch_of_any_size_is_the_samples_in_it(tmp_path: Path) -> None:
    many = np.arange(60, dtype="float32").reshape(5, 3, 4)
    expected = [{"x": row[None]} for row in many]
    np.save(tmp_path / "all.npy", many)
    for samples in ([many], [many[:2], many[2:]], [(many, np.zeros(5))], {"x": many}, tmp_path):
        np.testing.assert_equal(collected(samples), expected)
    inputs = (TensorSpec("x", (2, 3, 4), "float32"),)
    np.testing.assert_equal(collected([many], inputs), [{"x": many[:2]}, {"x": many[2:4]}])


def test_what_a_batch_shares_is_shared_by_the_samples_in_it() -> None:
    s = np.array([3], "float32")
    feeds_of = collected([{"x": np.stack([X, 2 * X]), "s": s}], (*ONE, SCALE))
    np.testing.assert_equal(feeds_of, [{"x": X[None], "s": s}, {"x": 2 * X[None], "s": s}])


def test_parts_of_a_batch_are_named_by_their_number(tmp_path: Path) -> None:
    many = np.stack([X, X * np.nan])
    np.save(tmp_path / "all.npy", many)
    with pytest.raises(SampleError, match=r"all\.npy\[1\]: input 'x' holds NaN"):
        collected(tmp_path)


def test_a_batch_of_the_users_counts_as_one() -> None:
    batches = [np.stack([X] * 8)] * 10
    assert len(collected(batches, batch_nums=3)) == 24
    assert len(collected(batches, batch_size=8, batch_nums=3)) == 24


def test_single_samples_are_stacked_to_the_models_batch() -> None:
    inputs = (TensorSpec("x", (2, 3, 4), "float32"),)
    assert [f["x"].shape for f in collected([X] * 5, inputs)] == [(2, 3, 4)] * 2


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (8, None),
        (9, "The last sample in the given list is left out: the model takes 4 at once"),
        (11, "The last 3 samples in the given list are left out: the model takes 4 at once"),
    ],
)
def test_samples_that_do_not_fill_a_batch_are_left_out_with_a_warning(
    count: int, message: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    fours = (TensorSpec("x", (4, 3, 4), "float32"),)
    assert len(list(named_feeds([X] * count, fours, warn=True))) == 2
    assert [m.partition(",")[0] for m in caplog.messages] == ([] if message is None else [message])


def test_batch_size_and_batch_nums_limit_the_samples() -> None:
    assert len(collected([X] * 10, batch_size=2, batch_nums=3)) == 6


def test_no_more_samples_are_drawn_than_are_used() -> None:
    drawn = []

    def generate() -> Iterator[np.ndarray]:
        for i in range(100):
            drawn.append(i)
            yield X

    collected(generate, batch_size=1, batch_nums=3)
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("samples", "inputs", "message"),
    [
        ([], ONE, "No samples to calibrate with: none in the given list\\.$"),
        (lambda: iter(()), ONE, "none in the given function. It must return a new iterator whenever it is called"),
        ([[X, Y.astype("float32")]], TWO, r"input 'y' has the dtype float32; expected int64. Convert it"),
        ([X.astype("float64") * 1e300], ONE, r"input 'x' holds 1e\+300, which is too large for float32"),
        ([X.astype("int32") * 2**24 + 1], ONE, "input 'x' holds 16777217; float32 holds integers from -16777216"),
        ([X.astype("complex64")], ONE, "has the dtype complex64; expected float32.$"),
        ([X[:2]], ONE, r"Sample 0: input 'x' has the shape \(2, 4\); expected \(1, 3, 4\).$"),
        ([X, X[:2]], ONE, r"Sample 1: .*\(2, 4\).* The first one, sample 0, has \(3, 4\): all must be alike.$"),
        (
            [{"x": np.stack([X] * 3), "y": np.stack([Y] * 2)}],
            TWO,
            "a batch, but not of one size: 'x' holds 3, 'y' .* 2",
        ),
        ([np.zeros((0, 3, 4), "float32")], ONE, r"has the shape \(0, 3, 4\)"),
        ([[[1.0, 2.0], [3.0]]], TWO, "input 'x' has the shape"),
        ([([[1.0, 2.0], [3.0]], 0)], ONE, "input 'x' can't be read as an array"),
        ([{"z": X}], ONE, r"Sample 0 holds \['z'\]; the model's inputs are \['x'\]"),
        ([{"x": X}], TWO, r"the model's inputs are \['x', 'y'\]"),
        ([{"x": X, "z": X, "a": X}], ONE, r"the model's inputs are \['x'\]. Leave 'a', 'z' out\."),
        (5, ONE, "Samples are 5. Expected a folder, an iterable of arrays, or a function"),
        (["cat"], ONE, "Sample 0: input 'x' is 'cat'; expected an array of numbers"),
        ([None], ONE, "Sample 0: input 'x' is None; expected an array of numbers"),
        ([[X, X, X]], ONE, r"Sample 0 holds 3 arrays without names; the model's inputs are \['x'\]"),
        ([X], TWO, r"an array without names; the model's inputs are \['x', 'y'\]"),
        ([X * np.nan], ONE, "Sample 0: input 'x' holds NaN or infinity"),
        ([X * np.inf], ONE, "holds NaN or infinity"),
    ],
    ids=[
        "none",
        "none from a function",
        "float",
        "large",
        "integer",
        "complex",
        "shape",
        "another shape",
        "batches",
        "no rows",
        "numbers",
        "ragged",
        "name",
        "missing",
        "others",
        "one number",
        "text",
        "nothing",
        "too many",
        "unnamed",
        "nan",
        "infinity",
    ],
)
def test_samples_that_do_not_fit(samples: Any, inputs: Any, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        collected(samples, inputs)


@pytest.mark.parametrize("lead", [(), (1,)], ids=["single", "with_batch"])
def test_pictures_in_the_other_layout_are_recognized(lead: tuple[int, ...]) -> None:
    nchw, nhwc = (TensorSpec("x", (1, 3, 8, 9), "float32"),), (TensorSpec("x", (1, 8, 9, 3), "float32"),)
    order = (0, 3, 1, 2) if lead else (2, 0, 1)
    picture = np.zeros((*lead, 8, 9, 3), "float32")
    with pytest.raises(SampleError, match=r"like NHWC, the model takes NCHW: array.transpose" + re.escape(str(order))):
        collected([picture], nchw)
    collected([picture.transpose(order)], nchw)
    order = (0, 2, 3, 1) if lead else (1, 2, 0)
    picture = np.zeros((*lead, 3, 8, 9), "float32")
    with pytest.raises(SampleError, match=r"like NCHW, the model takes NHWC: array.transpose" + re.escape(str(order))):
        collected([picture], nhwc)
    collected([picture.transpose(order)], nhwc)


def test_a_file_is_named_by_its_path(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", X * np.nan)
    with pytest.raises(SampleError, match=f"^Sample {re.escape(str(tmp_path / 'b.npy'))}: input 'x' holds NaN"):
        collected(tmp_path)
    np.savez(tmp_path / "b.npz", X)
    (tmp_path / "b.npy").unlink()
    with pytest.raises(SampleError, match=r"b.npz holds \['arr_0'\]; .* Name the arrays after the inputs"):
        collected(tmp_path)


def test_feeds_carry_what_messages_call_them(tmp_path: Path) -> None:
    for letter in "abcd":
        np.save(tmp_path / f"{letter}.npy", X)
    assert [name for name, _ in named_feeds(tmp_path, ONE)] == [str(tmp_path / f"{letter}.npy") for letter in "abcd"]
    pairs = named_feeds([X] * 4, (TensorSpec("x", (2, 3, 4), "float32"),))
    assert [name for name, _ in pairs] == ["sample 0 to sample 1", "sample 2 to sample 3"]


def test_a_shape_that_does_not_fit_is_refused_before_values_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((10, 3, 5), "float32"))

    def load(array: StoredArray) -> None:
        raise AssertionError(f"{array} was read")

    monkeypatch.setattr(StoredArray, "load", load)
    with pytest.raises(SampleError, match=r"a.npz: input 'x' has the shape \(10, 3, 5\)"):
        collected(tmp_path)


# Inputs without a batch axis, in a program for batches.

BATCH = (TensorSpec("x", (2, 3, 4), "float32"), SCALE)


@pytest.mark.parametrize("inputs", [BATCH, BATCH[::-1]], ids=["first", "last"])
def test_an_input_without_batch_axis_is_shared_by_the_batch(inputs: tuple[TensorSpec, ...]) -> None:
    s = np.array([3], "float32")
    (feed,) = collected([{"x": X, "s": s}, {"x": 2 * X, "s": s}], inputs)
    np.testing.assert_equal(feed, {"x": np.stack([X, 2 * X]), "s": s})


def test_a_batch_cannot_share_what_differs() -> None:
    samples = [{"x": X, "s": np.array([v], "float32")} for v in (3, 4)]
    message = r"Sample 0 and sample 1 go into one batch of 2, with different values for input 's'.* shape is \(1,\)"
    with pytest.raises(SampleError, match=message):
        collected(samples, BATCH)
    assert len(collected([{"x": np.stack([X, X]), "s": s["s"]} for s in samples], BATCH)) == 2


def test_a_scalar_input() -> None:
    t = np.array(0.5, "float32")
    (feed,) = collected([{"x": X, "t": t}], (*ONE, TensorSpec("t", (), "float32")))
    assert feed["t"].shape == ()
    (feed,) = collected([{"x": X, "t": t}] * 2, (BATCH[0], TensorSpec("t", (), "float32")))
    assert (feed["x"].shape, feed["t"].shape) == ((2, 3, 4), ())
    with pytest.raises(SampleError, match=r"input 't' has the shape \(1,\); expected \(\)"):
        collected([{"x": X, "t": t[None]}], (*ONE, TensorSpec("t", (), "float32")))


def test_samples_for_inputs_of_different_batches_are_not_single_ones() -> None:
    inputs = (BATCH[0], TensorSpec("z", (4, 5), "float32"))
    with pytest.raises(SampleError, match="don't have one batch size: 'x' takes 2, 'z' takes 4"):
        collected([{"x": X, "z": np.zeros(5, "float32")}], inputs)


def test_samples_of_a_batch_must_have_the_same_axes() -> None:
    inputs = (BATCH[0], TensorSpec("z", (2, 5), "float32"))
    whole, single = np.zeros((2, 5), "float32"), np.zeros(5, "float32")
    with pytest.raises(SampleError, match=r"Sample 0 and sample 1 .* input 'z' has the shapes \(2, 5\) and \(1, 5\)"):
        collected([{"x": X, "z": whole}, {"x": X, "z": single}], inputs)


@pytest.mark.parametrize(
    ("shapes", "batch"),
    [([(1,), (4, 3)], 4), ([(1, 576), (2, 1, 128)], 1), ([(), (2, 3, 4), (7, 1)], 2), ([()], 1), ([], 1)],
    ids=str,
)
def test_the_batch_of_a_program(shapes: list[tuple[int, ...]], batch: int) -> None:
    assert batch_of([TensorSpec(str(i), shape, "float32") for i, shape in enumerate(shapes)]) == batch


@pytest.mark.parametrize("option", ["batch_size", "batch_nums"])
def test_zero_batches_are_an_error(option: str) -> None:
    with pytest.raises(OptionError, match=f"{option} is 0"):
        collected([X], **{option: 0})


def test_too_few_samples_for_one_batch() -> None:
    with pytest.raises(SampleError, match="only 1 of the 2"):
        collected([X], (TensorSpec("x", (2, 3, 4), "float32"),))


def test_a_missing_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="doesn't exist"):
        collected(tmp_path / "none")
    with pytest.raises(SampleError, match=r"holds no \.npy or \.npz files"):
        collected(tmp_path)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SampleError, match="can't be read"):
        collected(tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-8])
    with pytest.raises(SampleError, match="can't be read"):
        collected(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.stack([X, 2 * X]))
    assert [f["x"].flat[0] for f in collected(tmp_path / "x.npy")] == [1, 2]
    (tmp_path / "x.txt").touch()
    with pytest.raises(SampleError, match="can't be read: Not a directory"):
        collected(tmp_path / "x.txt")
