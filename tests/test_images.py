"""Reading photos and masks."""

import struct
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


def save(path: Path, picture: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(path, **options)
    return path


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def refused(read, path: Path) -> str:
    """Code of the error, which names the file."""
    with pytest.raises(ImageReadError) as caught:
        read(path)
    assert path.name in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("value", sorted(UPRIGHT))
def test_orientation_is_applied(tmp_path, value, dtype):
    grey = np.arange(24, dtype=dtype).reshape(4, 6, 1)
    expected = UPRIGHT[value](grey).repeat(3, axis=2)
    for suffix, options in ((".png", {}), (".webp", {"lossless": True}), (".tif", {"compression": "tiff_lzw"})):
        stored = grey.astype(np.uint8).repeat(3, axis=2) if suffix == ".webp" else grey[..., 0]
        path = save(tmp_path / f"a{suffix}", stored, exif=orientation(value), **options)
        np.testing.assert_array_equal(read_image(path, 8), expected)
        np.testing.assert_array_equal(image_sizes([path]), [expected.shape[:2]])
        assert decode_image(path).orientation == value and decode_image(path).shape == expected.shape[:2]


def test_other_modes_become_rgb(tmp_path):
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([1, 0])
    for name, picture, expected, options in (
        ("l.png", grey, grey[..., None].repeat(3, 2), {}),
        ("la.png", np.dstack([grey, [[0, 9], [255, 1]]]).astype(np.uint8), grey[..., None].repeat(3, 2), {}),
        ("bits.png", Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), [[[0] * 3, [255] * 3]], {}),
        ("p.png", palette, [[[40, 50, 60], [10, 20, 30]]], {}),
        ("pt.png", palette, [[[40, 50, 60], [10, 20, 30]]], {"transparency": 0}),
        ("c.tif", Image.new("CMYK", (1, 1), (0, 255, 255, 0)), [[[255, 0, 0]]], {}),
    ):
        np.testing.assert_array_equal(read_image(save(tmp_path / name, picture, **options)), expected, err_msg=name)
        assert decode_image(tmp_path / name).alpha == (name in ("la.png", "pt.png"))


@pytest.mark.parametrize(("highest", "bits"), [(255, 8), (256, 10), (1023, 10), (1024, 12), (4096, 14), (65535, 16)])
def test_bit_depth_is_the_smallest_that_holds_every_photo(tmp_path, highest, bits):
    grey = save(tmp_path / "grey.png", np.array([[0, 7]], np.uint16))
    bright = save(tmp_path / "bright.tif", np.array([[3, highest]], np.uint16))
    eight = save(tmp_path / "eight.tif", np.full((1, 2), 255, np.uint8))
    assert measure_bit_depth([eight, grey, tmp_path / "missing.png", bright]) == bits
    assert measure_bit_depth([eight]) is None
    assert read_image(bright, bits)[0, 1, 0] == highest >> (bits - 8) and read_image(bright)[0, 1, 0] == highest >> 8
    assert bits == 8 or refused(lambda path: read_image(path, 8), bright) == "beyond-range"


@pytest.mark.parametrize("bits", [12, 16])
def test_colours_of_more_than_8_bits_keep_their_levels(tmp_path, bits):
    values = np.random.default_rng(2).integers(0, 1 << bits, (3, 5, 3)).astype(np.uint16)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), values[..., ::-1])  # OpenCV's order is blue, green, red
    assert measure_bit_depth([path]) == bits and decode_image(path).bits == 16
    np.testing.assert_array_equal(read_image(path, bits), values >> (bits - 8))


def test_depth_of_a_data_set_holds_for_all_its_photos_and_no_others(tmp_path):
    inside, outside = (save(tmp_path / name / "a.png", np.array([[16, 4095]], "u2")) for name in ("in/deep", "in2"))
    remember_bit_depth(tmp_path / "in", 12)
    np.testing.assert_array_equal(read_image(inside)[..., 0], [[1, 255]])
    np.testing.assert_array_equal(read_image(outside)[..., 0], [[0, 15]])
    np.testing.assert_array_equal(read_image(inside, 16)[..., 0], [[0, 15]])


def set_tag(path: Path, tag: int, value: int) -> Path:
    """Overwrite a tag of a TIFF file (little-endian), as TIFF 6.0 lays them out."""
    data = bytearray(path.read_bytes())
    [start] = struct.unpack("<I", data[4:8])
    for entry in range(start + 2, start + 2 + 12 * data[start], 12):
        if data[entry : entry + 2] == struct.pack("<H", tag):
            data[entry + 8] = value
    path.write_bytes(data)
    return path


def test_pictures_of_an_unknown_range_are_refused(tmp_path):
    for dtype in (np.float32, np.int32):
        assert refused(read_image, save(tmp_path / "deep.tif", np.ones((2, 2), dtype))) == "32-bit"
    cv2.imwrite(str(tmp_path / "signed.tif"), np.array([[0, 300, -4]], np.int16))
    assert refused(read_image, tmp_path / "signed.tif") == "unknown-range"
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[339] = 2  # TIFF 6.0: signed
    assert refused(read_image, save(tmp_path / "a.tif", np.ones((8, 8), np.uint8), tiffinfo=tags)) == "unknown-range"
    # tag 262, PhotometricInterpretation: white is 0
    inverted = set_tag(save(tmp_path / "b.tif", np.array([[0, 10, 255]], np.uint8)), 262, 0)
    np.testing.assert_array_equal(read_image(inverted)[..., 0], [[255, 245, 0]])
    assert refused(read_image, set_tag(save(tmp_path / "c.tif", np.ones((2, 2), "u2")), 262, 0)) == "unknown-range"


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_truncated_files_are_refused(tmp_path, suffix):
    path = save(tmp_path / f"cut{suffix}", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert {refused(read_image, path), refused(read_mask, path)} <= {"truncated", "unreadable", "not-an-image"}


@pytest.mark.parametrize("code", ["too-large", "empty-file", "missing-file", "not-an-image"])
def test_what_cannot_be_read_is_named_whoever_reads_it(tmp_path, monkeypatch, code):
    path = tmp_path / "a.png"
    if code == "too-large":
        Image.new("1", (20, 20)).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 199)
    elif code != "missing-file":
        path.write_text("a photo" if code == "not-an-image" else "")
    for read in (read_image, read_mask, decode_image, lambda file: image_sizes([file])):
        assert refused(read, path) == code


def test_masks_any_non_zero_pixel_is_defect(tmp_path):
    expected = np.array([[False, True], [True, False]])
    blue = np.zeros((2, 2, 4), np.uint8)
    blue[..., 3], blue[..., 2] = 255, expected * 3  # opaque everywhere: alpha does not count
    for name, picture in (
        *((f"{high}.png", (expected * high).astype(np.uint8)) for high in (255, 1)),
        ("deep.png", expected.astype(np.uint16)),
        ("whole.tif", expected.astype(np.int32)),
        ("bits.png", Image.fromarray(expected)),
        ("rgba.png", blue),
        ("rgb.png", blue[..., :3]),
    ):
        np.testing.assert_array_equal(read_mask(save(tmp_path / name, picture)), expected, err_msg=name)
    for exif in ({}, {"exif": orientation(1)}):  # the pixels' chunk comes first, or behind a header
        path = save(tmp_path / "h.webp", blue[..., :3], lossless=True, exact=True, **exif)
        np.testing.assert_array_equal(read_mask(path), expected)
    with pytest.raises(ValueError, match=r"h\.webp.*2x2.*3x2"):
        read_mask(path, (2, 3))


@pytest.mark.parametrize(  # VOC's; no black; white first
    ("palette", "indices"),
    [([0] * 3 + [128, 0, 0], [0, 1, 1, 0]), ([9] * 3 + [128, 0, 0], [0, 1, 1, 0]), ([255] * 3 + [0] * 3, [1, 0, 0, 1])],
)
def test_indexed_masks(tmp_path, palette, indices):
    image = Image.new("P", (2, 2))
    image.putpalette(palette)
    image.putdata(indices)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", image)), [[False, True], [True, False]])


def test_lossy_masks_are_thresholded(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:41, 20:30] = 255
    path = save(tmp_path / "m.jpg", mask, quality=30)
    assert len(np.unique(Image.open(path))) > 2  # ringing
    np.testing.assert_array_equal(read_mask(path), mask == 255)
    assert not read_mask(save(tmp_path / "p.jpg", mask * 0)).any()
    # by content, not by name; not empty, though nothing reaches the threshold
    for name, options in (("n.png", {"format": "JPEG"}), ("o.webp", {"lossless": False})):
        assert refused(read_mask, save(tmp_path / name, np.full((8, 8, 3), 100, np.uint8), **options)) == "faint-mask"


def test_a_mask_in_alpha_alone_is_refused(tmp_path):
    mask = np.zeros((8, 8, 4), np.uint8)
    assert not read_mask(save(tmp_path / "m.png", mask)).any()
    mask[..., 3] = np.arange(64).reshape(8, 8)
    assert refused(read_mask, save(tmp_path / "m.png", mask)) == "alpha-mask"


@pytest.mark.parametrize(
    ("files", "links", "expected"),
    [
        ("in/b/2.PNG in/a.jpeg in/b/1.png in/b/readme.txt in/.hidden/3.png in/b/._1.png", {}, "a.jpeg b/1.png b/2.PNG"),
        ("archive/1.png in/0.png", {"in/line": "archive", "in/same": "archive"}, "0.png line/1.png"),
        ("in/z/1.png", {"in/a": "in/z"}, "z/1.png"),  # under its own name
        (
            "in/z.png out/y.png",
            {"in/a.png": "in/z.png", "in/b.png": "out/y.png", "in/c.png": "out/y.png"},
            "b.png z.png",
        ),
        (  # round in circles outside
            "in/a.png one/b.png two/c.png",
            {"in/one": "one", "one/two": "two", "two/one": "one", "two/in": "in", "two/all": "."},
            "a.png one/b.png one/two/c.png",
        ),
        ("in/day/a.png in/night/b.png", {"in/day/x": "in", "in/night/x": "in/night"}, "day/a.png night/b.png"),
        ("in/day/a.png in/night/b.png c.png", {"in/day/x": "."}, "day/a.png night/b.png"),
    ],
)
def test_photos_are_found_once_through_links_but_not_in_circles(tmp_path, files, links, expected, caplog):
    for name in files.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    found = [path.relative_to(tmp_path / "in").as_posix() for path in find_images(tmp_path / "in")]
    assert found == expected.split()
    assert ("not followed" in caplog.text) == any(link.endswith(("/x", "/all")) for link in links)


@pytest.mark.parametrize("shape", [(1, 5000, 3), (20, 8000, 3), (8000, 20)])
def test_a_strip_is_not_enlarged_without_bound(shape):
    strip = np.zeros(shape, np.uint8 if len(shape) == 3 else bool)
    with pytest.raises(ImageReadError) as caught:
        to_network_frame(strip, {"image_size": [256], "center_crop": [256, 256]})
    assert caught.value.code == "too-thin"
    assert to_network_frame(strip, {"image_size": [64, 64]}).shape[:2] == (64, 64)
