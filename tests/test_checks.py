"""Every finding is provoked by a file made for it."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from readers import EMPTY, HEIGHT, MASK, WIDTH, boxes, photos, write

from helpers import read_dataset
from helpers.data import checks
from helpers.data.checks import DatasetError, check_dataset, raise_on_errors
from helpers.data.duplicates import near_duplicate_pairs
from helpers.data.findings import FINDINGS
from helpers.data.samples import make_table

FOLDERS = ("train/good", "val/good", "test/good", "test/dent")
TRAIN0, TRAIN1, TEST0, TEST1 = (f"{folder}/{i}.png" for folder in FOLDERS[::2] for i in range(2))
DENT0, MASK0 = "test/dent/0.png", "ground_truth/dent/0.png"
FILES = photos(*(f"{folder}/{i}.png" for folder in FOLDERS for i in range(3)))
FILES |= {f"ground_truth/dent/{i}.png": MASK for i in range(3)}
TURNED = Image.Exif()
TURNED[0x0112] = 6


def pixels(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (height, width, 3), np.uint8)


def encoded(picture: np.ndarray | Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, format, **options)
    return file.getvalue()


def read(root: Path) -> pd.DataFrame:
    table = read_dataset(root)
    table.attrs["scheme"] = "one_class"
    return table


def check(table: pd.DataFrame, few: bool = False) -> pd.DataFrame:
    """Findings of the check alone, with those about few photos where that is asked for."""
    findings = check_dataset(table)
    return findings[(few | ~findings["code"].str.startswith("too-few")) & (findings["code"] != "defect-types")]


def found(table: pd.DataFrame, few: bool = False) -> set[tuple[str, str, str]]:
    return set(check(table, few)[["severity", "code", "path"]].itertuples(index=False, name=None))


@pytest.fixture
def root(tmp_path) -> Path:
    """A small clean dataset: 3 normal photos in train, val and test, and 3 with defects and masks in test."""
    return write(tmp_path / "data", FILES)


def change(table: pd.DataFrame, name: str, **values: str) -> None:
    """Change the row of a photo; paths are relative to the dataset."""
    row = table["image_path"] == f"{table.attrs['root']}/{name}"
    for column, value in values.items():
        table.loc[row, column] = f"{table.attrs['root']}/{value}" if column == "mask_path" and value else value


def test_a_clean_dataset_has_no_findings_and_a_table_needs_its_columns(root):
    table = read(root)
    assert list(check(table).columns) == ["code", "severity", "path", "problem", "fix"] and check(table).empty
    with pytest.raises(ValueError, match="mask_path"):
        check_dataset(table.drop(columns="mask_path"))


def test_the_table_of_findings_is_whole():
    assert {row["severity"] for row in FINDINGS.values()} == {"error", "warning", "info"}
    assert all(row["problem"] and row["fix"] and None not in row for row in FINDINGS.values())


@pytest.mark.parametrize(
    ("code", "name", "content", "facts"),
    [
        ("empty-file", TRAIN0, b"", ""),
        ("not-an-image", TRAIN0, b"this is text", ""),
        ("32-bit", "train/good/x.tif", encoded(pixels(0)[..., 0].astype(np.float32), "TIFF"), ""),
        ("palette", TRAIN0, encoded(Image.fromarray(pixels(0)).quantize(64)), ""),
        ("alpha", TRAIN0, encoded(np.dstack([pixels(0), pixels(1)[..., 0]])), ""),
        ("cmyk", "train/good/x.jpg", encoded(Image.fromarray(pixels(0)).convert("CMYK"), "JPEG"), ""),
        ("mixed-sizes", TRAIN0, encoded(pixels(0, height=10)), "30x20 (11), 30x10 (1)"),
        ("mixed-modes", TRAIN0, encoded(pixels(0)[..., 0]), "colour (11), grey (1)"),
        ("exif-rotation", TRAIN0, encoded(pixels(0, WIDTH, HEIGHT), exif=TURNED), "orientation 6"),
        ("mask-as-photo", TRAIN0, encoded(np.dstack([MASK] * 3).astype(np.uint8) * 255), ""),
    ],
)
def test_a_photo(root, code, name, content, facts):
    (finding,) = check(read(write(root, {name: content}))).itertuples()
    error = code in ("empty-file", "not-an-image", "32-bit", "mask-as-photo")
    assert finding.code == code and finding.severity == ("error" if error else "warning")
    assert finding.path == ("" if code.startswith("mixed") else name) and facts in finding.problem


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_truncated_image(root, format):
    data, name = encoded(pixels(0), format), f"train/good/cut.{format.lower()}"
    assert not found(read(write(root, {name: data})))
    write(root, {name: data[: int(len(data) * 0.8)]})  # the header is whole: only decoding tells
    ((severity, code, path),) = found(read(root))
    assert (severity, path) == ("error", name) and code in ("truncated", "unreadable")


def test_photos_of_16_bits_or_several_pages(root):
    pages = encoded(pixels(200), "TIFF", save_all=True, append_images=[Image.fromarray(pixels(201))] * 2)
    deep = encoded(pixels(0)[..., 0].astype(np.uint16) * 257)
    findings = check(read(write(root, {TRAIN0: deep, "train/good/p.tif": pages}))).set_index("code")
    assert set(findings.index) == {"16-bit", "mixed-modes", "several-pages"}
    assert "3 pages" in findings.loc["several-pages", "problem"] and "65535" in findings.loc["16-bit", "problem"]


@pytest.mark.parametrize(
    ("code", "mask", "facts"),
    [
        ("mask-size", MASK[:, :20], "20x20"),
        ("non-binary-mask", MASK.astype(np.uint8) * 7, "highest 7"),
        ("non-binary-mask", np.uint8([0, 128, 255])[MASK + boxes((0, 9, 2, 4)).astype(int)], "3 value(s), highest 255"),
        ("empty-mask", EMPTY, ""),
        ("full-mask", ~MASK, "91 %"),  # 546 of 600 pixels
        ("", MASK.astype(np.uint8), ""),
    ],
)
def test_a_mask(root, code, mask, facts):
    findings = check(read(write(root, {MASK0: mask})))
    severity = "error" if code == "mask-size" else "warning"
    assert findings[["severity", "code", "path"]].to_numpy().tolist() == ([[severity, code, MASK0]] if code else [])
    assert not code or facts in findings["problem"].item()


def test_mask_size_is_that_of_the_upright_photo(root):
    turned = {DENT0: encoded(pixels(0, WIDTH, HEIGHT), exif=TURNED)}
    assert found(read(write(root, turned))) == {("warning", "exif-rotation", DENT0)}
    mask = encoded(boxes((2, 8, 3, 12)).T.copy(), exif=TURNED)
    assert found(read(write(root, {MASK0: mask}))) == {("warning", "exif-rotation", path) for path in (DENT0, MASK0)}


def test_masks_stored_lossily_of_good_photos_or_of_two(root):
    lossy, some, none = (f"ground_truth/{name}" for name in ("lossy.jpg", "some.png", "none.png"))
    table = read(write(root, {lossy: MASK, some: MASK, none: EMPTY}))
    table.attrs["findings"] = []
    for name, mask in ((DENT0, lossy), (TEST0, some), (TEST1, none)):  # an empty mask says what the label says
        change(table, name, mask_path=mask)
    assert found(table) == {("warning", "lossy-mask", lossy), ("error", "mask-on-good", some)}
    assert "9 %" in check(table).set_index("code")["problem"]["mask-on-good"]  # 54 of 600 pixels
    change(table, "test/dent/1.png", mask_path=lossy)
    assert ("warning", "shared-mask", lossy) in found(table)


def test_missing_and_unreadable_files(root):
    table, mask = read(root), root / MASK0
    mask.write_bytes(mask.read_bytes()[:60])
    assert {(severity, path) for severity, _, path in found(table)} == {("error", MASK0)}
    mask.unlink()
    assert found(table) == {("error", "missing-mask", MASK0)}
    change(table, DENT0, mask_path="")
    assert found(table) == {("error", "missing-mask", DENT0)}
    table["mask_path"] = ""  # a dataset without masks is image-level only, which is no fault
    assert not found(table)
    (root / TRAIN0).unlink()
    assert found(table) == {("error", "missing-file", TRAIN0)}


@pytest.mark.parametrize(
    ("source", "name", "severity", "code"),
    [
        (TRAIN0, TEST0, "error", "split-leak"),
        (TRAIN0, TRAIN1, "warning", "duplicate"),
        (TRAIN0, "test/good/copy.bmp", "error", "split-leak"),  # other bytes, the same pixels
        (TEST0, DENT0, "error", "contradicting-labels"),
    ],
)
def test_copies(root, source, name, severity, code):
    data = (root / source).read_bytes()
    table = read(write(root, {name: encoded(Image.open(io.BytesIO(data)), "BMP") if name.endswith("bmp") else data}))
    first, second = sorted([name, source])
    assert found(table) == {(severity, code, first)}
    assert second in check(table)["problem"].item()


def test_group_in_two_splits(root):
    table = read(root)
    for name in (TRAIN0, TEST0):
        change(table, name, group="part 7")
    assert found(table) == {("error", "group-leak", "")} and "part 7" in check(table)["problem"].item()


def aligned(seed: int, side: int = 128) -> np.ndarray:
    """A photo of a good part under a fixed camera: one base, another light and other noise in every photo."""
    base, rng = np.random.default_rng(0).integers(60, 180, (8, 8)), np.random.default_rng(1000 + seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = 1 + 0.1 * rng.normal() + 0.08 * rng.normal() * x + 0.08 * rng.normal() * y
    picture = np.kron(base, np.ones((side // 8, side // 8))) * light + rng.normal(0, 8, (side, side))
    return np.clip(np.dstack([picture] * 3), 0, 255).astype(np.uint8)


def test_aligned_photos_are_no_near_duplicates_but_a_reencoded_one_is(tmp_path):
    splits = ("train", "train", "val", "test")
    write(tmp_path, {f"{splits[number % 4]}/good/{number:03}.png": aligned(number) for number in range(60)})
    for number in range(3):
        scratched = aligned(100 + number)
        scratched[60:64, 20:90] = 20
        write(tmp_path, {f"test/scratch/{number}.png": scratched})
    assert not found(read(tmp_path))
    bright = np.clip(aligned(1) * 1.1, 0, 255).astype(np.uint8)
    small = Image.fromarray(aligned(4)).resize((64, 64), Image.Resampling.BOX)
    copies = {"test/good/again.jpg": encoded(aligned(0), "JPEG", quality=85)}
    copies |= {"test/good/bright.jpg": encoded(bright, "JPEG", quality=90), "test/good/small.png": encoded(small)}
    table = read(write(tmp_path, copies))
    near = check(table).query("code == 'near-duplicate'")
    assert near["path"].tolist() == list(copies)
    assert near["problem"].str.extract(r"(\d+\.png)")[0].tolist() == ["000.png", "001.png", "004.png"]
    change(table, "test/good/again.jpg", split="train")  # in one split it does no harm
    assert len(check(table).query("code == 'near-duplicate'")) == 2


def test_near_duplicates_by_the_documented_rule():
    rng = np.random.default_rng(5)
    grey = rng.uniform(50, 200, (32, 32)) + rng.normal(0, 6, (120, 32, 32))
    grey[100:110] = grey[:10] + rng.normal(0, 0.3, (10, 32, 32))
    splits, normal = np.repeat([0, 1, 2], [80, 20, 20]), np.ones(120, bool)
    pairs = near_duplicate_pairs(np.rint(grey * 128).astype(np.uint16), splits, normal, identical=np.arange(120))
    assert sorted(zip(pairs["first"], pairs["second"], strict=True)) == [(k, 100 + k) for k in range(10)]
    # noise of 0.3 in one of two; 12 of 1024 directions are light and fitted away
    np.testing.assert_allclose(pairs["distance"], 0.3, rtol=0.1)
    np.testing.assert_allclose(pairs["typical"], 6 * np.sqrt(2), rtol=0.1)


def test_kinds_of_photos_that_lack(root):
    table = read(root)
    table["mask_path"], table.attrs["findings"] = "", []
    defects, test = table["label_index"] == 1, table["split"] == "test"
    assert found(table[:0]) == {("error", "no-photos", "")}
    assert found(table[defects]) == {("error", "no-normals", "")}
    assert found(table[~defects]) == {("warning", "no-defects", "")}
    assert found(table[defects | ~test]) == {("warning", "one-class-test", "")}
    change(table, DENT0, split="train")
    assert found(table) == {("error", "abnormal-in-train", DENT0)}
    table.attrs["scheme"] = "supervised"
    assert not found(table) and found(table[defects]) == {("warning", "no-normals", "")}


def test_too_few_photos(root):
    few = {("warning", "too-few-train", ""), ("warning", "too-few-val", "")}
    table = read(root)
    assert found(table, few=True) == few
    table = table[(table["split"] != "train") | table["image_path"].str.endswith(TRAIN0)]
    assert found(table, few=True) == {("error", "too-few-train", ""), ("warning", "too-few-val", "")}
    more = read(write(root, photos(*(f"{split}/good/{i}.png" for split in ("train", "val") for i in range(3, 20)))))
    assert not found(more, few=True)
    more = more[more["split"] != "test"].assign(split="")
    more.attrs["scheme"] = None  # before the split train has to be enough for both
    assert found(more, few=True) == {("warning", "no-defects", "")}
    assert found(more[1:], few=True) == {("warning", "no-defects", ""), ("warning", "too-few-train", "")}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("", ["Pr\u00fcfling 1 (oben)/a-b_c.png", "console.png"]),
        ("unusable-name", ["a\nb.png", "a\tb.png", "a\x7f.png"]),
        ("unportable-name", ["what?.png", "a\\b.png", "folder /a.png", "a.png.", "con/a.png", "a" * 250 + ".png"]),
        ("outside-root", ["../store/x.png"]),
    ],
)
def test_names_and_places(tmp_path, code, names):
    rows = [{"image_path": name} for name in [*names, "same.png", "Same.png"]]  # none of them is there
    findings = check_dataset(make_table(rows, root=tmp_path, layout="", name="", published_split=False))
    told = findings.loc[findings["code"].str.contains("name|root"), "code"].tolist()
    assert sorted(told) == sorted([code] * len(names) * bool(code) + ["name-collision"])
    assert not findings["path"].str.contains(r"[\n\t]").any()


def test_errors_come_first_and_stop_training(root):
    names = [f"train/good/{number}.png" for number in range(3)]
    alpha = encoded(np.dstack([pixels(0), pixels(1)[..., 0]]))
    findings = check(read(write(root, dict.fromkeys(names, b"") | {TEST1: alpha})))
    assert list(findings["severity"]) == ["error"] * 3 + ["warning"] and list(findings["path"][:3]) == names
    with pytest.raises(DatasetError) as caught:
        raise_on_errors(findings, limit=2)
    assert [name in str(caught.value) for name in names] == [True, True, False]
    raise_on_errors(findings[findings["severity"] == "warning"])


def test_every_file_is_decoded_once_and_the_table_stays(root, monkeypatch):
    opened, decode = [], checks.decode_image
    table = read(root)
    before = table.copy()
    monkeypatch.setattr(checks, "decode_image", lambda path: opened.append(str(path)) or decode(path))
    first = check_dataset(table)
    pd.testing.assert_frame_equal(table, before)
    assert sorted(opened) == sorted([*table["image_path"], *table["mask_path"][table["mask_path"] != ""]])
    pd.testing.assert_frame_equal(first, check_dataset(table.sample(frac=1, random_state=1)))
