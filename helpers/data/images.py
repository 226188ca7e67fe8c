"""Reading photos and masks: upright, 8-bit, and with an error that names the file when one cannot be read."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from helpers.data.findings import FINDINGS
from helpers.progress import in_threads

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES: frozenset[str] = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp"})
BIT_DEPTHS = (8, 10, 12, 14, 16)  # a channel, that cameras deliver in files of 16
MAX_RESIZED_PIXELS = 2**24  # for a network: 1x5000 with a shorter side of 1024 would have 1.6 million times as many
LOSSY_MASK_THRESHOLD = 128  # grey value from which a pixel of a mask in JPEG and the like is defect
CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # what operating systems leave behind, lower case
_UNREAD = "heic heif avif gif jp2 j2k jxl jpe psd tga pgm ppm pbm raw dng cr2 cr3 nef arw orf rw2 raf pef srw exr hdr"
UNREAD_SUFFIXES = frozenset(f".{name}" for name in f"{_UNREAD} npy npz mat nii nrrd".split())
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP")  # no others: Pillow would hand EPS files to Ghostscript
_COLOURS = ("RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_ORIENTATION, _PHOTOMETRIC, _SAMPLE_FORMAT = 0x0112, 0x0106, 0x0153  # tags

# EXIF 2.32, tag 274: what turns the stored array (H, W[, C]) into the upright one
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


class ImageReadError(ValueError):
    """A file that cannot be read as a photo or mask, by a ``code`` of `FINDINGS` and its facts."""

    def __init__(self, path: str | Path, code: str, **facts: Any) -> None:
        self.code, self.fix = code, FINDINGS[code]["fix"]
        self.problem = FINDINGS[code]["problem"].format(**facts)
        super().__init__(f"{path}: {self.problem}; {self.fix}.")


class MissingImageError(ImageReadError, FileNotFoundError):
    """A photo or mask that is not there."""


class DecodedImage:
    """A file decoded to its last pixel: Pillow's ``image`` and, of 16-bit ones, the values ``deep``, uint16 (H, W) or
    (H, W, 3), both as they are stored; ``turn`` is what of the EXIF ``orientation`` makes them upright, ``shape`` their
    (H, W) then. ``mode`` is the file's, as Pillow names it.
    """

    def __init__(self, path: Path, image: Image.Image, data: bytes | None) -> None:
        kind, tags = image.format or "", getattr(image, "tag_v2", {})
        self.path, self.image, self.mode = path, image, image.mode
        deep = _is_deep(image)
        self.bits = 16 if deep else {"1": 1, "I": 32, "F": 32}.get(self.mode, 8)
        if (deep and tags.get(_PHOTOMETRIC) == 0) or (self.bits in (8, 16) and 2 in tags.get(_SAMPLE_FORMAT, ())):
            raise ImageReadError(path, "unknown-range")
        self.lossy = kind in ("JPEG", "MPO") or (kind == "TIFF" and image.info.get("compression") == "jpeg")
        if kind == "WEBP":  # RFC 9649: lossless pixels lie in a VP8L chunk, the first, or the one behind VP8X
            self.lossy = b"VP8L" not in (data or path.read_bytes())[12:34]
        # a second picture in a JPEG is the camera's preview
        self.pages = 1 if kind == "MPO" else getattr(image, "n_frames", 1)
        stored = _orientation(image) if kind == "TIFF" else 1
        image.load()
        # after loading: Pillow turns some TIFF files itself, and PNG files may carry EXIF behind the pixels
        self.turn = _orientation(image)
        self.orientation = self.turn if self.turn != 1 else stored
        self.shape = image.size if self.turn >= 5 else image.size[::-1]
        self.alpha = self.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info
        self.deep = _deep_values(image, data or path.read_bytes()) if deep else None

    def pixels(self, bits: int | None = None) -> np.ndarray:
        """Upright 8-bit pixels, uint8 (H, W) for grey pictures and (H, W, 3) for all others; see `read_image`."""
        mode = self.image.mode
        if self.deep is not None:
            return self.upright(to_8_bits(self.deep, bits or known_bit_depth(self.path) or 16, self.path))
        if mode in ("I", "F"):
            raise ImageReadError(self.path, "32-bit", mode=mode)
        # straight to RGB would mix the transparent colour of a palette in with a warning
        image = self.image.convert("RGBA") if mode == "P" and self.alpha else self.image
        return self.upright(np.asarray(image.convert("L" if mode in ("L", "LA", "La", "1") else "RGB")))

    def rgb(self, bits: int | None = None) -> np.ndarray:
        pixels = self.pixels(bits)
        return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else np.require(pixels, requirements="W")

    def mask_values(self) -> np.ndarray:
        """Upright stored values (H, W), where 0 is background: the grey value, the index, or the largest of R, G, B.

        Of an indexed picture index 0 is background, unless the palette's black is another index: then colour counts.
        """
        image = self.image
        if image.mode in ("LA", "La", "PA"):
            image = image.getchannel(0)
        elif image.mode in _COLOURS or (image.mode == "P" and not _zero_is_background(image)):
            image = image.convert("RGB")
        values = np.asarray(image)
        return self.upright(values.max(axis=2) if values.ndim == 3 else values)

    def mask(self) -> np.ndarray:
        """Upright mask, see `read_mask`."""
        values = self.mask_values()
        mask = values >= LOSSY_MASK_THRESHOLD if self.lossy else values != 0
        if not mask.any() and self.lossy and values.any():
            raise ImageReadError(self.path, "faint-mask", least=LOSSY_MASK_THRESHOLD, highest=values.max())
        has_alpha = self.image.mode in ("LA", "RGBA", "PA")
        if not mask.any() and has_alpha and len(set(self.image.getchannel("A").getextrema())) == 2:
            raise ImageReadError(self.path, "alpha-mask")
        return mask

    def upright(self, array: np.ndarray) -> np.ndarray:
        """An array (H, W, ...) of the stored picture as the upright one."""
        return np.ascontiguousarray(_UPRIGHT[self.turn](array)) if self.turn in _UPRIGHT else array


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION, 1)
    return value if value in _UPRIGHT else 1


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel, whatever Pillow makes of them."""
    if image.mode == "I" and image.format == "PNG":  # older versions of Pillow open 16-bit PNG files so
        return True
    return image.mode.startswith("I;16") or any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def _deep_values(image: Image.Image, data: bytes) -> np.ndarray:
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)
    import cv2  # Pillow keeps the upper 8 bits of 16-bit colours

    known = image.mode in ("RGB", "RGBA", "LA")
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if known else None
    if values is None or values.dtype != np.uint16:
        return np.asarray(image.convert("RGB")).astype(np.uint16) << 8
    return values if values.ndim == 2 else np.ascontiguousarray(values[:, :, 2::-1])


def _zero_is_background(image: Image.Image) -> bool:
    palette = np.asarray(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    black = [index for index in used if index < len(palette) and not palette[index].any()]
    return not black or 0 in black


@contextmanager
def _opened(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """Pillow's image; whatever goes wrong with it becomes an ImageReadError."""
    try:
        if (path.stat().st_size if data is None else len(data)) == 0:
            raise ImageReadError(path, "empty-file")
        # never by name: Pillow (13.0) maps a turned, uncompressed TIFF file of a known name into memory with its sides
        # exchanged, and shows noise
        with path.open("rb") if data is None else io.BytesIO(data) as file, Image.open(file, formats=_FORMATS) as image:
            yield image
    except ImageReadError:
        raise
    except FileNotFoundError as error:
        raise MissingImageError(path, "missing-file") from error
    except UnidentifiedImageError as error:
        raise ImageReadError(path, "not-an-image") from error
    except Image.DecompressionBombError as error:
        raise ImageReadError(path, "too-large", why=error) from error
    except Exception as error:  # decoders of broken files raise nearly anything: SyntaxError, struct.error, zlib.error
        why = str(error) or type(error).__name__
        truncated = "truncat" in why.lower() or isinstance(error, EOFError)
        raise ImageReadError(path, "truncated" if truncated else "unreadable", why=why) from error


def decode_image(path: str | Path, data: bytes | None = None) -> DecodedImage:
    """Decode a file (of a name, where its ``data`` are given) to the last pixel; ImageReadError."""
    path = Path(path)
    with _opened(path, data) as image:
        return DecodedImage(path, image, data)


def read_image(path: str | Path, bits: int | None = None) -> np.ndarray:
    """Read a photo as uint8 (H, W, 3) RGB, upright (EXIF orientation applied), without alpha, the first of its pages.

    Of 16-bit values the upper 8 of the lower ``bits`` are kept; default: those of the photo's data set
    (`remember_bit_depth`), else 16.
    """
    return decode_image(path).rgb(bits)


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask as bool (H, W), upright: True is defect; ``shape`` is that of its photo, which it has to have.

    Every non-zero pixel is defect, so masks of 0/255, of 0/1 and of class indices read alike; of RGB(A) masks any
    non-zero colour channel counts, alpha never. Lossy files (JPEG and the like) are thresholded at 128.
    """
    mask = decode_image(path).mask()
    if shape is not None and mask.shape != tuple(shape):
        raise ValueError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels but its photo {shape[1]}x{shape[0]} "
            "(width x height); save the mask at the size of the photo."
        )
    return mask


def read_header(path: str | Path) -> tuple[tuple[int, int], int]:
    """Size (H, W) of a photo as it is read, and the EXIF orientation (1 to 8) that is stored; decodes nothing."""
    with _opened(Path(path)) as image:
        orientation = _orientation(image)
        # of TIFF files Pillow gives the upright size
        turned = orientation >= 5 and image.format != "TIFF"
        return (image.size if turned else image.size[::-1]), orientation


def image_sizes(paths: Iterable[str | Path]) -> np.ndarray:
    """Sizes of photos as they are read, (N, 2) int64 of (height, width) in pixels."""
    return np.array([read_header(path)[0] for path in paths], dtype=np.int64).reshape(-1, 2)


_known_depths: dict[str, int] = {}  # by folder: one scale for all photos of a data set, whoever reads them


def remember_bit_depth(folder: str | Path, bits: int | None) -> None:
    """From now on 16-bit photos in a folder and below are read with ``bits`` unless told otherwise; None: no news."""
    if bits:
        _known_depths[os.path.abspath(folder)] = bits  # noqa: PTH100  (resolve would follow links)


def known_bit_depth(path: str | Path) -> int | None:
    """What was remembered for the data set that a photo lies in."""
    folders = Path(os.path.abspath(path)).parents if _known_depths else ()  # noqa: PTH100
    return next((_known_depths[str(folder)] for folder in folders if str(folder) in _known_depths), None)


def measure_bit_depth(paths: Iterable[str | Path]) -> int | None:
    """The fewest bits (`BIT_DEPTHS`) that hold every value of the 16-bit photos among some; None if there are none."""

    def highest(path: str | Path) -> int:
        try:
            with _opened(Path(path)) as image:
                return int(DecodedImage(Path(path), image, None).deep.max(initial=0)) if _is_deep(image) else -1
        except (OSError, ValueError):  # said by check_dataset
            return -1

    most = max(in_threads(highest, paths), default=-1)
    return None if most < 0 else next(bits for bits in BIT_DEPTHS if most < 1 << bits)


def to_8_bits(values: np.ndarray, bits: int, name: str | Path) -> np.ndarray:
    """The upper 8 of ``bits`` bits, uint8."""
    highest = int(values.max(initial=0))
    if highest >= 1 << bits:
        raise ImageReadError(name, "beyond-range", highest=highest, bits=bits)
    return (values >> (bits - 8)).astype(np.uint8)


def files_below(folder: str | Path, loops: list[Path]) -> list[Path]:
    """Files in a folder and below, without hidden ones and an operating system's clutter, by relative posix path.

    Links are followed, and a folder that several lead to is listed once, under its own name if it lies inside. A link
    to a folder above itself, or to one that ``folder`` lies in, is not followed but appended to ``loops``. An empty
    folder that is called as a picture (``1.png/``) is listed as one: nobody can read it, but it is missed.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise error

    def wanted(name: str) -> bool:
        return not name.startswith(".") and name.lower() not in CLUTTER

    root = Path(folder)
    files: list[Path] = []
    seen: set[str] = set()
    starts = [root]
    for start in starts:  # grows: links wait until what lies here under its own name is listed
        if start.is_symlink() and is_loop(start, root):
            loops.append(start)
            continue
        for parent, folders, names in os.walk(start, onerror=refuse):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            if not folders and not names and Path(parent).suffix.lower() in IMAGE_SUFFIXES:
                files.append(Path(parent))
            folders[:] = sorted(filter(wanted, folders))
            starts += [link for link in (Path(parent, name) for name in folders) if link.is_symlink()]
            files += [Path(parent, name) for name in filter(wanted, names)]
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def is_loop(link: Path, root: Path) -> bool:
    """Whether a link leads to a folder that it lies in itself, or that ``root`` lies in."""
    target = Path(os.path.realpath(link))
    return any(Path(os.path.realpath(place)).is_relative_to(target) for place in (link.parent, root.parent))


def find_images(folder: str | Path) -> list[Path]:
    """Photos (by suffix) as `files_below` finds them, one that several links lead to once; loops are logged."""
    loops: list[Path] = []
    files = [path for path in files_below(folder, loops) if path.suffix.lower() in IMAGE_SUFFIXES]
    for loop in loops:
        logger.warning("%s is a link to a folder around it and is not followed.", loop)
    repeated = repeated_links(files)
    return [path for path in files if path not in repeated]


def repeated_links(files: Iterable[Path]) -> set[Path]:
    """Links among the files whose target is listed too, or that another link leads to as well (the first is kept)."""
    files = list(files)
    links = [path for path in files if os.path.islink(path)]  # noqa: PTH114  (false for a name that is too long)
    known = {os.path.realpath(path) for path in set(files) - set(links)} if links else set()
    repeated: set[Path] = set()
    for link in links:
        real = os.path.realpath(link)
        if real in known:
            repeated.add(link)
        known.add(real)
    return repeated


def require_resizable(shape: Sequence[int], image_size: Sequence[int], name: str | Path = "the photo") -> None:
    """Raise ImageReadError where a photo (height, width, ...) is so thin that a given shorter side makes it huge."""
    height, width = shape[:2]
    pixels = height * width * (image_size[0] / max(1, min(height, width))) ** 2
    if len(image_size) == 1 and pixels > MAX_RESIZED_PIXELS:
        facts = {"width": width, "height": height, "short": image_size[0], "millions": pixels / 1e6}
        raise ImageReadError(name, "too-thin", **facts)


def to_network_frame(picture: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
    """Resize and crop a picture as the network's pre-processor does, to the size of the anomaly map, not normalised.

    Photos, uint8 (H, W, 3), bilinearly and antialiased, masks, bool (H, W), to the nearest pixel. ``parameters`` of the
    run: ``image_size``, (height, width) or (shorter side,), and ``center_crop``, (height, width) or None.
    """
    import torch
    from torchvision.transforms.v2 import InterpolationMode, functional

    require_resizable(picture.shape[:2], parameters["image_size"])
    is_mask = picture.ndim == 2
    tensor = torch.from_numpy(np.atleast_3d(picture).astype(np.uint8)).permute(2, 0, 1)
    mode = InterpolationMode.NEAREST if is_mask else InterpolationMode.BILINEAR
    tensor = functional.resize(tensor, list(parameters["image_size"]), interpolation=mode, antialias=not is_mask)
    if parameters.get("center_crop"):
        tensor = functional.center_crop(tensor, list(parameters["center_crop"]))
    return tensor[0].numpy().astype(bool) if is_mask else tensor.permute(1, 2, 0).numpy()


def map_at_photo_size(network_map: np.ndarray, shape: tuple[int, int], parameters: Mapping[str, Any]) -> np.ndarray:
    """A network's map enlarged bilinearly to the photo; 0 where a centre crop hid the photo from the network.

    The pixels at the middle of a cell have at least the cell's value: so what is above a threshold in the network's map
    is so in the photo, however small it is, and nothing else. Masks, sizes and outlines all come from it, float32.
    """
    import torch
    from torch.nn import functional
    from torchvision.transforms.v2.functional import resize

    cells = torch.from_numpy(np.ascontiguousarray(network_map, dtype=np.float32))[None, None]
    if parameters.get("center_crop"):
        resized = resize(torch.empty((1, *shape), device="meta"), list(parameters["image_size"]))
        height, width = resized.shape[-2:]
        # torchvision's centre crop begins at half of what is left over, rounded
        top, left = round((height - cells.shape[-2]) / 2), round((width - cells.shape[-1]) / 2)
        cells = functional.pad(cells, (left, width - cells.shape[-1] - left, top, height - cells.shape[-2] - top))
    # in double and rounded once: in float32 the mean of equal values may come out a hair above them
    enlarged = functional.interpolate(cells.double(), size=shape, mode="bilinear")[0, 0].float().numpy()
    rows, columns = (_middles(*sides) for sides in zip(cells.shape[-2:], shape, strict=True))
    for row in rows:
        for column in columns:
            np.maximum.at(enlarged, np.ix_(row, column), cells[0, 0].numpy())
    return enlarged


def _middles(cells: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels, two where it lies between them, that the middle of each cell falls on."""
    middle = (2 * np.arange(cells) + 1) * pixels  # in halves of a cell
    return -(-middle // (2 * cells)) - 1, middle // (2 * cells)
