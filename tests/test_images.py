"""Reading photos and masks."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from helpers.data.images import (
    IMAGE_SUFFIXES,
    ImageReadError,
    decode_image,
    find_images,
    image_sizes,
    measure_bit_depth,
    read_image,
    read_mask,
    remember_bit_depth,
    to_network_frame,
)

# EXIF 2.32 names where row 0 and column 0 of the stored picture lie in the upright one; as numpy operations:
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,  # row 0 top, column 0 right
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.transpose(a, (1, 0, 2)),
    6: lambda a: np.rot90(a, -1),  # stored picture turned clockwise is upright
    7: lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_applied(tmp_path, colours, suffix, value):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", colours, exif=orientation(value), **options)
    expected = UPRIGHT[value](colours)
    np.testing.assert_array_equal(read_image(path), expected)
    decoded = decode_image(path)
    assert decoded.orientation == value
    assert decoded.shape == expected.shape[:2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("value", sorted(UPRIGHT))
def test_turned_grey_tiff(tmp_path, value, compression, dtype):
    grey = np.arange(24, dtype=dtype).reshape(4, 6)
    path = save(tmp_path / "a.tif", grey, exif=orientation(value), compression=compression)
    upright = UPRIGHT[value](grey[..., None])
    np.testing.assert_array_equal(read_image(path, 8), upright.repeat(3, axis=2))
    np.testing.assert_array_equal(image_sizes([path]), [upright.shape[:2]])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_is_shifted(tmp_path, suffix):
    values = np.array([[0, 255, 256], [511, 32768, 65535]], np.uint16)
    path = save(tmp_path / f"a{suffix}", values)
    expected = np.array([[0, 0, 1], [1, 128, 255]], np.uint8)
    np.testing.assert_array_equal(read_image(path), np.dstack([expected] * 3))
    assert decode_image(path).bits == 16


def sixteen_bit_rgb_png(values):
    """A PNG written by hand (ISO/IEC 15948): colour type 2, bit depth 16."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_is_shifted(tmp_path):
    values = np.random.default_rng(1).integers(0, 65536, (3, 5, 3)).astype(np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(sixteen_bit_rgb_png(values))
    np.testing.assert_array_equal(read_image(path), values >> 8)
    assert decode_image(path).bits == 16


@pytest.mark.parametrize(
    ("highest", "bits"), [(255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16384, 16), (65535, 16)]
)
def test_bit_depth_is_the_smallest_that_holds_every_photo(tmp_path, highest, bits):
    grey = save(tmp_path / "grey.png", np.array([[0, 7]], np.uint16))
    bright = save(tmp_path / "bright.tif", np.array([[3, highest]], np.uint16))
    eight = save(tmp_path / "eight.tif", np.full((1, 2), 255, np.uint8))
    assert measure_bit_depth([eight, grey, tmp_path / "missing.png", bright]) == bits
    assert measure_bit_depth([eight]) is None
    assert read_image(bright, bits)[0, 1, 0] == highest >> (bits - 8)
    if bits > 8:
        with pytest.raises(ImageReadError) as caught:
            read_image(bright, 8)
        assert caught.value.code == "beyond-range" and "bright.tif" in str(caught.value)


def test_twelve_bits_of_colour_keep_their_levels(tmp_path):
    values = np.random.default_rng(2).integers(0, 4096, (3, 5, 3)).astype(np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(sixteen_bit_rgb_png(values))
    assert measure_bit_depth([path]) == 12
    np.testing.assert_array_equal(read_image(path, 12), values >> 4)


def test_depth_of_a_data_set_holds_for_all_its_photos_and_no_others(tmp_path):
    values = np.array([[16, 4095]], np.uint16)
    inside, outside = (save(tmp_path / name / "a.png", values) for name in ("in/deep", "in2"))
    remember_bit_depth(tmp_path / "in", 12)
    np.testing.assert_array_equal(read_image(inside)[..., 0], [[1, 255]])
    np.testing.assert_array_equal(read_image(outside)[..., 0], [[0, 15]])
    np.testing.assert_array_equal(read_image(inside, 16)[..., 0], [[0, 15]])


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_thirty_two_bits_are_refused(tmp_path, dtype):
    path = save(tmp_path / "deep.tif", np.ones((2, 2), dtype))
    with pytest.raises(ValueError, match=r"deep\.tif.*32 bits.*8 or 16 bits"):
        read_image(path)


def test_other_modes_become_rgb(tmp_path):
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    triple = np.dstack([grey] * 3)
    np.testing.assert_array_equal(read_image(save(tmp_path / "l.png", grey)), triple)
    la = np.dstack([grey, [[0, 9], [255, 1]]]).astype(np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "la.png", la)), triple)
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    bits.save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), [[[0] * 3, [255] * 3]])

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([1, 0])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), [[[40, 50, 60], [10, 20, 30]]])
    palette.save(tmp_path / "pt.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "pt.png"), [[[40, 50, 60], [10, 20, 30]]])
    assert decode_image(tmp_path / "pt.png").alpha

    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "c.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif")[0, 0], [255, 0, 0])


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_truncated_files_are_refused(tmp_path, suffix):
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"cut{suffix}", photo)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"cut\{suffix}"):
        read_image(path)
    with pytest.raises(ValueError, match=rf"cut\{suffix}"):
        read_mask(path)


def test_masks_any_non_zero_pixel_is_defect(tmp_path):
    expected = np.array([[False, True], [True, False]])
    for name, high in (("a", 255), ("b", 1), ("c", 7)):
        path = save(tmp_path / f"{name}.png", (expected * high).astype(np.uint8))
        np.testing.assert_array_equal(read_mask(path), expected)
    path = save(tmp_path / "d.png", expected.astype(np.uint16))
    np.testing.assert_array_equal(read_mask(path), expected)
    Image.fromarray(expected).save(tmp_path / "e.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "e.png"), expected)
    blue = np.zeros((2, 2, 4), np.uint8)
    blue[..., 3] = 255  # opaque everywhere: alpha does not count
    blue[..., 2] = expected * 3
    assert read_mask(save(tmp_path / "f.png", blue)).dtype == bool
    np.testing.assert_array_equal(read_mask(tmp_path / "f.png"), expected)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "g.png", blue[..., :3])), expected)
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / "h.webp", blue[..., :3], lossless=True, exact=True)), expected
    )


def test_indexed_masks(tmp_path):
    expected = np.array([[False, True], [True, False]])
    for name, palette, indices in (
        ("classes", [0, 0, 0, 128, 0, 0], [0, 1, 1, 0]),
        ("no_black", [9, 9, 9, 128, 0, 0], [0, 1, 1, 0]),
        ("white_first", [255, 255, 255, 0, 0, 0], [1, 0, 0, 1]),
    ):
        image = Image.new("P", (2, 2))
        image.putpalette(palette)
        image.putdata(indices)
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), expected, err_msg=name)


def test_lossy_masks_are_thresholded(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:41, 20:30] = 255
    path = save(tmp_path / "m.jpg", mask, quality=30)
    assert len(np.unique(Image.open(path))) > 2  # ringing
    np.testing.assert_array_equal(read_mask(path), mask == 255)
    # by content, not by name
    data = io.BytesIO()
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(data, "JPEG")
    (tmp_path / "n.png").write_bytes(data.getvalue())
    save(tmp_path / "o.webp", np.full((8, 8, 3), 100, np.uint8), lossless=False)
    for name in ("n.png", "o.webp"):  # not empty, though nothing reaches the threshold
        with pytest.raises(ImageReadError) as caught:
            read_mask(tmp_path / name)
        assert caught.value.code == "faint-mask"
    assert not read_mask(save(tmp_path / "p.jpg", np.zeros((8, 8), np.uint8))).any()


def test_a_mask_in_alpha_alone_is_refused(tmp_path):
    mask = np.zeros((8, 8, 4), np.uint8)
    for alpha, empty in ((0, True), (255, True), (None, False)):
        mask[..., 3] = np.arange(64).reshape(8, 8) if alpha is None else alpha
        path = save(tmp_path / "m.png", mask)
        if empty:
            assert not read_mask(path).any()
            continue
        with pytest.raises(ImageReadError) as caught:
            read_mask(path)
        assert caught.value.code == "alpha-mask"


def test_signed_8_bit_tiff_is_refused(tmp_path):
    pixels, path = np.arange(64, dtype=np.uint8).reshape(8, 8), tmp_path / "a.tif"
    for sample_format in (1, 2):  # TIFF 6.0, tag 339: unsigned, signed
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[339] = sample_format
        Image.fromarray(pixels).save(path, tiffinfo=tags)
        if sample_format == 1:
            np.testing.assert_array_equal(read_image(path)[..., 0], pixels)
            continue
        with pytest.raises(ImageReadError) as caught:
            read_image(path)
        assert caught.value.code == "signed"


def test_find_images(tmp_path):
    for name in ("b/2.PNG", "a.jpeg", "b/1.png", "b/readme.txt", ".hidden/3.png", "b/._1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == ["a.jpeg", "b/1.png", "b/2.PNG"]


def linked(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("this machine makes no symbolic links")


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def test_linked_folders_are_followed(tmp_path):
    save(tmp_path / "archive/1.png", np.zeros((2, 2), np.uint8))
    save(tmp_path / "photos/0.png", np.zeros((2, 2), np.uint8))
    linked(tmp_path / "photos/line", tmp_path / "archive")
    linked(tmp_path / "photos/same", tmp_path / "archive")
    assert names(tmp_path / "photos") == ["0.png", "line/1.png"]


@pytest.mark.parametrize("target", [".", "day", ".."])
def test_link_to_a_folder_around_it_is_not_followed(tmp_path, target, caplog):
    root = tmp_path / "photos"
    for name in ("photos/day/a.png", "photos/night/b.png", "beside.png"):
        save(tmp_path / name, np.zeros((2, 2), np.uint8))
    linked(root / "day/again", root / target)
    linked(root / "night/again", root / target)
    assert names(root) == ["day/a.png", "night/b.png"]
    assert "again" in caplog.text


def test_photo_with_links_to_it_is_listed_once(tmp_path):
    save(tmp_path / "in/z.png", np.zeros((2, 2), np.uint8))
    save(tmp_path / "out/y.png", np.zeros((2, 2), np.uint8))
    linked(tmp_path / "in/latest.png", tmp_path / "in/z.png")
    linked(tmp_path / "in/one.png", tmp_path / "out/y.png")
    linked(tmp_path / "in/two.png", tmp_path / "out/y.png")
    assert names(tmp_path / "in") == ["one.png", "z.png"]


def test_links_between_folders_outside_end(tmp_path):
    for name in ("root/a.png", "one/b.png", "two/c.png"):
        save(tmp_path / name, np.zeros((2, 2), np.uint8))
    linked(tmp_path / "root/one", tmp_path / "one")
    linked(tmp_path / "one/two", tmp_path / "two")
    linked(tmp_path / "two/one", tmp_path / "one")
    linked(tmp_path / "two/root", tmp_path / "root")
    linked(tmp_path / "two/all", tmp_path)
    assert names(tmp_path / "root") == ["a.png", "one/b.png", "one/two/c.png"]


# ------------------------------------------------------------------------------------------------------------- thinness


@pytest.mark.parametrize(("width", "height", "code"), [(20992, 10496, "too-large"), (0, 0, "empty-file")])
def test_sizes_of_what_cannot_be_read_name_it(tmp_path, monkeypatch, width, height, code):
    path = tmp_path / "big.png"
    if width:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        Image.new("1", (width, height)).save(path)
        monkeypatch.undo()
    else:
        path.touch()
    for read in (read_image, read_mask, lambda file: image_sizes([file])):
        with pytest.raises(ImageReadError) as caught:
            read(path)
        assert caught.value.code == code and "big.png" in str(caught.value)


@pytest.mark.parametrize("error", [FileNotFoundError, ImageReadError])
@pytest.mark.parametrize("read", [read_image, read_mask, decode_image, lambda file: image_sizes([file])])
def test_a_missing_file_is_named_whoever_reads_it(tmp_path, read, error):
    with pytest.raises(error) as caught:
        read(tmp_path / "gone.png")
    assert caught.value.code == "missing-file" and "gone.png" in str(caught.value)


@pytest.mark.parametrize(("dtype", "code"), [(np.uint8, None), (np.uint16, "white-is-zero")])
def test_a_tiff_file_whose_white_is_zero_is_no_negative(tmp_path, dtype, code):
    path = save(tmp_path / "a.tif", np.array([[0, 10, 255]], dtype))
    data = bytearray(path.read_bytes())
    [start] = struct.unpack("<I", data[4:8])
    for entry in range(start + 2, start + 2 + 12 * data[start], 12):  # TIFF 6.0: tag 262 is PhotometricInterpretation
        if data[entry : entry + 2] == struct.pack("<H", 262):
            data[entry + 8] = 0
    path.write_bytes(data)
    if code is None:
        np.testing.assert_array_equal(read_image(path)[..., 0], [[255, 245, 0]])
    else:
        with pytest.raises(ImageReadError) as caught:
            read_image(path)
        assert caught.value.code == code


@pytest.mark.parametrize("sign", [-1, 1])
def test_signed_sixteen_bits(tmp_path, sign):
    values = (np.array([[0, 300, 4000]]) * sign).astype(np.int16)
    assert cv2.imwrite(str(tmp_path / "a.tif"), values)
    if sign > 0:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 12)[..., 0], values >> 4)
    else:
        with pytest.raises(ImageReadError):
            read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(1, 5000, 3), (20, 8000, 3), (8000, 20)])
def test_a_strip_is_not_enlarged_without_bound(shape):
    strip = np.zeros(shape, np.uint8 if len(shape) == 3 else bool)
    with pytest.raises(ImageReadError) as caught:
        to_network_frame(strip, {"image_size": [256], "center_crop": [256, 256]})
    assert caught.value.code == "too-thin"
    assert to_network_frame(strip, {"image_size": [64, 64]}).shape[:2] == (64, 64)
