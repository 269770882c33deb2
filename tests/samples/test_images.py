"""Pictures as inputs: the same pixels give the same numbers, namely those of torchvision's transforms."""

from __future__ import annotations

import contextlib
import gc
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.options import ImageOptions
from pipeline.errors import OptionError, SampleError
from pipeline.ir.preprocessing import ImagePreprocessing
from pipeline.ir.program import TensorSpec
from pipeline.samples import Images, feeds, preprocessing_of
from pipeline.samples.images import MAX_PIXELS, preprocess, resolve_preprocessing, upright_size

SPEC = TensorSpec("x", (1, 3, 4, 6), "float32")
PLAIN = ImagePreprocessing(None, None, "RGB", 1 / 255, (0.0,), (1.0,), "NCHW")


def pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), "uint8")


def saved(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def steps(**options: Any) -> ImagePreprocessing:
    return resolve_preprocessing(ImageOptions(**options), SPEC)


def test_values_are_those_of_torchvision(tmp_path: Path) -> None:
    """ToTensor divides by 255, Normalize subtracts the mean and divides by std."""
    image = pixels(4, 6)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made = preprocess(saved(tmp_path / "a.png", image), steps(mean=mean, std=std), "float32")
    exact = (image.astype("float64").transpose(2, 0, 1) / 255 - np.array(mean)[:, None, None]) / np.array(std)[
        :, None, None
    ]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, exact, rtol=1e-7, atol=1e-9)


def test_numbers_of_0_to_255_are_said_by_the_scale(tmp_path: Path) -> None:
    image = pixels(4, 6)
    made = preprocess(saved(tmp_path / "a.png", image), steps(scale=1, mean=127, std=128), "float32")
    np.testing.assert_array_equal(made, ((image.astype("float32") - 127) / 128).transpose(2, 0, 1))


def test_without_options_pictures_are_stretched_to_the_inputs_size_and_are_0_to_1(tmp_path: Path) -> None:
    image = pixels(20, 10)
    made = preprocess(saved(tmp_path / "a.png", image), steps(), "float32")
    expected = np.asarray(Image.fromarray(image).resize((6, 4), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    np.testing.assert_array_equal(made, expected.astype("float32"))
    assert steps() == ImagePreprocessing((6, 4), None, "RGB", 1 / 255, (0.0,), (1.0,), "NCHW")


@pytest.mark.parametrize(
    ("size", "resized", "corner"),
    [((10, 25), (8, 20), (1, 8)), ((25, 10), (20, 8), (7, 2)), ((8, 8), (8, 8), (1, 2)), ((9, 10), (8, 8), (1, 2))],
    ids=str,
)
def test_the_shorter_side_is_resized_and_the_middle_kept(
    tmp_path: Path, size: tuple[int, int], resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    """Resize(8) cuts the longer side off to whole pixels; CenterCrop((4, 6)) rounds halves to even."""
    image = pixels(size[1], size[0])
    made = preprocess(saved(tmp_path / "a.png", image), steps(resize=8), "float32")
    left, top = corner
    whole = np.asarray(Image.fromarray(image).resize(resized, Image.Resampling.BILINEAR))
    expected = whole[top : top + 4, left : left + 6].transpose(2, 0, 1) / 255
    np.testing.assert_array_equal(made, expected.astype("float32"))
    assert steps(resize=8) == steps(resize=8, crop=(6, 4))


def test_a_crop_alone_resizes_nothing(tmp_path: Path) -> None:
    image = pixels(8, 10)
    made = preprocess(saved(tmp_path / "a.png", image), steps(crop=(6, 4)), "float32")
    np.testing.assert_array_equal(made, (image[2:6, 2:8].transpose(2, 0, 1) / 255).astype("float32"))


def test_blue_comes_first_if_asked_for_and_means_are_in_the_channels_order(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.png", pixels(4, 6))
    rgb = preprocess(file, steps(mean=(0.1, 0.2, 0.3)), "float32")
    bgr = preprocess(file, steps(mean=(0.3, 0.2, 0.1), bgr=True), "float32")
    np.testing.assert_array_equal(bgr, rgb[::-1])


def test_the_layout_follows_the_input(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.png", pixels(4, 6))
    last = resolve_preprocessing(ImageOptions(), TensorSpec("x", (1, 4, 6, 3), "float32"))
    assert last.layout == "NHWC"
    np.testing.assert_array_equal(
        preprocess(file, last, "float32").transpose(2, 0, 1), preprocess(file, steps(), "float32")
    )
    assert resolve_preprocessing(ImageOptions(layout="nhwc"), TensorSpec("x", (1, 3, 6, 3), "float32")).layout == "NHWC"


def test_a_model_of_one_channel_gets_the_brightness(tmp_path: Path) -> None:
    image = pixels(4, 6)
    grey = resolve_preprocessing(ImageOptions(), TensorSpec("x", (1, 1, 4, 6), "float32"))
    made = preprocess(saved(tmp_path / "a.png", image), grey, "float32")
    np.testing.assert_array_equal(made, np.asarray(Image.fromarray(image).convert("L"), "float32")[None] / 255)


def test_a_model_of_integers_gets_the_pixels(tmp_path: Path) -> None:
    image = pixels(4, 6)
    whole = resolve_preprocessing(ImageOptions(), TensorSpec("x", (1, 4, 6, 3), "uint8"))
    made = preprocess(saved(tmp_path / "a.png", image), whole, "uint8")
    np.testing.assert_array_equal(made, image)
    assert made.dtype == np.uint8


def test_the_same_pixels_give_the_same_numbers_whatever_the_file(tmp_path: Path) -> None:
    grey = np.repeat(pixels(4, 6, 1), 3, axis=2)
    alpha = np.concatenate([grey, pixels(4, 6, 1)], axis=2)
    files = [saved(tmp_path / name, grey) for name in ("a.png", "a.bmp", "a.ppm", "a.tiff")]
    files += [saved(tmp_path / "grey.png", grey[..., 0]), saved(tmp_path / "alpha.png", alpha)]
    palette = Image.fromarray(grey[..., 0]).convert("P")
    palette.save(tmp_path / "palette.png")
    expected = preprocess(files[0], PLAIN, "float32")
    for file in [*files, tmp_path / "palette.png"]:
        np.testing.assert_array_equal(preprocess(file, PLAIN, "float32"), expected)


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    image = pixels(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(tmp_path / "a.png", image, exif=exif)
    upright = np.rot90(image, -1)
    np.testing.assert_array_equal(
        preprocess(file, PLAIN, "float32"), preprocess(saved(tmp_path / "b.png", upright), PLAIN, "float32")
    )
    assert upright_size(file) == (4, 6)
    assert upright_size(saved(tmp_path / "c.png", image)) == (6, 4)


def test_a_folder_of_pictures_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = [pixels(4, 6) // (i + 1) for i in range(3)]
    for name, image in zip(("b.png", "a.PNG", "c.bmp"), images, strict=True):
        saved(tmp_path / name, image)
    (tmp_path / "labels.txt").write_text("cat")
    np.save(tmp_path / "d.npy", np.zeros((3, 4, 6), "float32"))
    made = [f["x"] for f in feeds(Images(tmp_path, ImageOptions(scale=1)), [SPEC])]
    expected = [images[1], images[0], images[2], np.zeros((4, 6, 3))]
    np.testing.assert_array_equal(made, [i.transpose(2, 0, 1)[None].astype("float32") for i in expected])
    np.testing.assert_allclose(next(feeds(tmp_path, [SPEC]))["x"], made[0] / 255, rtol=1e-6)


def test_pictures_may_stand_in_folders_by_class(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "cat/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        saved(tmp_path / name, np.full((4, 6, 3), len(list(tmp_path.rglob("*.png"))), "uint8"))
    assert [f["x"].max() for f in feeds(Images(tmp_path, ImageOptions(scale=1)), [SPEC])] == [2, 1, 0]


def test_single_pictures_make_the_models_batch(tmp_path: Path) -> None:
    for i in range(3):
        saved(tmp_path / f"{i}.png", pixels(4, 6))
    assert [f["x"].shape for f in feeds(tmp_path, [TensorSpec("x", (2, 3, 4, 6), "float32")])] == [(2, 3, 4, 6)]


def test_pictures_are_for_models_of_one_input(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", pixels(4, 6))
    with pytest.raises(SampleError, match=r"the model has 2 inputs: 'x', 'y'\. Give \.npz files"):
        list(feeds(tmp_path, [SPEC, TensorSpec("y", (1,), "float32")]))


def test_options_without_pictures_are_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 6), "float32"))
    assert preprocessing_of(tmp_path, [SPEC]) is None
    with pytest.raises(OptionError, match="holds no pictures"):
        preprocessing_of(Images(tmp_path, ImageOptions(resize=8)), [SPEC])


@pytest.mark.parametrize(
    ("options", "shape", "dtype", "message"),
    [
        ({"crop": 4}, (1, 3, 4, 6), "float32", "--crop 4x4: input 'x' takes pictures of 6x4"),
        ({"mean": (0.5, 0.5)}, (1, 3, 4, 6), "float32", "mean has 2 numbers, pictures have 3 channels"),
        ({"std": 0}, (1, 3, 4, 6), "float32", "std not 0"),
        ({"mean": 127}, (1, 3, 4, 6), "float32", "means are of values from 0 to 1.*--scale 1"),
        ({"mean": 0.5}, (1, 3, 4, 6), "uint8", "takes pictures as uint8: leave --scale, --mean and --std out"),
        ({}, (1, 3, 4, 6), "int8", "input of int8, which holds less"),
        ({"resize": 0}, (1, 3, 4, 6), "float32", "1 to 65536 pixels"),
        ({}, (1, 10), "float32", r"its shape is \[1, 10\]"),
        ({}, (1, 4, 8, 8), "float32", "they have 3 channels, or 1"),
        ({}, (1, 3, 4, 3), "float32", "may be NCHW or NHWC: say which with --layout"),
        ({"layout": "NHWC"}, (1, 3, 4, 6), "float32", "say where the channels are"),
    ],
    ids=[
        "crop",
        "mean",
        "std",
        "units",
        "integers",
        "int8",
        "size",
        "rows",
        "channels",
        "layout",
        "other layout",
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], shape: tuple[int, ...], dtype: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve_preprocessing(ImageOptions(**options), TensorSpec("x", shape, dtype))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file whose header claims a size, and that contains no pixels of that size."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(100)))
    written = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def deep(path: Path) -> None:
    Image.fromarray(np.arange(24, dtype="uint16").reshape(4, 6)).save(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "can't be read: .*truncated"),
        (lambda p: p.write_text("hello"), "isn't a picture of a known kind .*, or is damaged"),
        (lambda p: p.write_bytes(b""), "isn't a picture of a known kind"),
        (lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "isn't a picture of a known"),
        (deep, "has more than 8 bits a channel"),
        (lambda p: p.write_bytes(png_header(12000, 12000)), f"is 12000x12000: more than {MAX_PIXELS} pixels"),
        (lambda p: p.write_bytes(png_header(2**30, 2**30)), r"can't be read: Image size .* exceeds limit .*[^.]\.$"),
        (lambda p: (p.unlink(), p.mkdir()), "can't be read: Is a directory"),
        (lambda p: saved(p, pixels(3, 6)), "is too small to be cropped to 6x4: it is 6x3"),
    ],
    ids=["truncated", "text", "empty", "program", "deep", "large", "bomb", "folder", "small"],
)
def test_a_picture_that_cannot_be_used_is_named(tmp_path: Path, spoil: Any, message: str) -> None:
    saved(tmp_path / "a.png", pixels(4, 6))
    file = saved(tmp_path / "b.png", pixels(4, 6))
    spoil(file)
    with pytest.raises(SampleError, match=rf"{re.escape(str(file))} {message}"):
        list(feeds(Images(tmp_path, ImageOptions(crop=(6, 4))), [SPEC]))


def test_a_thin_picture_does_not_become_a_huge_one(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.png", pixels(1, 5000))
    with pytest.raises(SampleError, match=r"is 5000x1, resized 1280000x256: too large"):
        preprocess(file, steps(resize=256), "float32")


def test_damaged_files_are_refused_as_such(tmp_path: Path) -> None:
    """Whatever bytes are wrong, the error is a SampleError that names the file, and nothing is warned of."""
    # Else what other tests have left, such as sockets, might be warned of in the middle of this one.
    gc.collect()
    random = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "a.jpg", "a.gif", "a.bmp", "a.tiff", "a.webp"):
            good = saved(tmp_path / name, pixels(8, 8)).read_bytes()
            for _ in range(100):
                data = bytearray(good)
                for place in random.integers(0, len(data), 3):
                    data[place] = random.integers(0, 256)
                file = tmp_path / name
                file.write_bytes(bytes(data))
                with contextlib.suppress(SampleError):
                    assert preprocess(file, steps(), "float32").shape == (3, 4, 6)
