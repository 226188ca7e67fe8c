"""Every finding is provoked by a file made for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.data import checks
from helpers.data.checks import DatasetError, check_dataset, raise_on_errors
from helpers.data.duplicates import near_duplicate_pairs
from helpers.data.findings import FINDINGS
from helpers.data.samples import make_table

SIDE = 64
TRAIN0, TRAIN1 = "train/good/train0.png", "train/good/train1.png"
TEST0, TEST1 = "test/good/test0.png", "test/good/test1.png"
DENT0, MASK0 = "test/dent/test0.png", "ground_truth/dent/test0_mask.png"


def photo(seed: int, side: int = SIDE) -> np.ndarray:
    """A picture of its own: coarse blocks and noise."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(50, 200, (8, 8, 3)), np.ones((side // 8, side // 8, 1)))
    return np.clip(blocks + rng.normal(0, 5, (side, side, 3)), 0, 255).astype(np.uint8)


BLOB = np.zeros((SIDE, SIDE), np.uint8)
BLOB[20:30, 20:40] = 255
TURNED = Image.Exif()
TURNED[0x0112] = 6


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


GROUPS = (("train", "good", 6), ("val", "good", 3), ("test", "good", 3), ("test", "dent", 3))


class Dataset:
    """A small clean dataset: 6 normal photos in train, 3 in val, 3 and 3 with defects (and masks) in test."""

    def __init__(self, root: Path, groups: Sequence[tuple[str, str, int]] = GROUPS) -> None:
        self.root, self.rows, self.attrs = root, {}, {"scheme": "one_class"}
        for split, kind, count in groups:
            for number in range(count):
                name = f"{'train' if split == 'val' else split}/{kind}/{split}{number}.png"
                save(root / name, photo(len(self.rows)))
                mask = f"ground_truth/{kind}/{split}{number}_mask.png" if kind != "good" else ""
                if mask:
                    save(root / mask, BLOB)
                self.add(name, split, kind, mask)

    def add(self, name: str, split: str = "train", kind: str = "good", mask: str = "") -> Path:
        label = {"label_index": int(kind != "good"), "defect_type": kind}
        self.rows[name] = {"image_path": name, "mask_path": mask, "split": split, "group": "", **label}
        return self.root / name

    def table(self) -> pd.DataFrame:
        table = make_table(self.rows.values(), root=self.root, layout="mvtec", name="tiny", published_split=True)
        table.attrs |= self.attrs
        return table

    def check(self, *, few: bool = False) -> pd.DataFrame:
        """Findings, with those about few photos where that is asked for."""
        findings = check_dataset(self.table())
        return findings[few | ~findings["code"].str.startswith("too-few")].reset_index(drop=True)

    def found(self, **options) -> set[tuple[str, str, str]]:
        """(severity, code, path) of all findings."""
        findings = self.check(**options)
        return set(findings[["severity", "code", "path"]].itertuples(index=False, name=None))


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return Dataset(tmp_path / "data")


def test_a_clean_dataset_has_no_findings_and_a_table_needs_its_columns(dataset):
    findings = dataset.check()
    assert list(findings.columns) == ["code", "severity", "path", "problem", "fix"] and findings.empty
    raise_on_errors(findings)
    table = dataset.table()
    with pytest.raises(ValueError, match="mask_path"):
        check_dataset(table.drop(columns="mask_path"))
    table.attrs = {}
    with pytest.raises(ValueError, match="root"):
        check_dataset(table)


def test_the_table_of_findings_is_whole():
    assert {row["severity"] for row in FINDINGS.values()} == {"error", "warning", "info"}
    assert all(row["problem"] and row["fix"] and None not in row for row in FINDINGS.values())


def test_what_the_reader_noted_comes_too(dataset):
    noted = {"code": "boxes-only", "severity": "warning", "path": "x.json", "problem": "has boxes", "fix": "none"}
    dataset.attrs["findings"] = [noted, noted]
    assert dataset.check().to_dict("records") == [noted]


# --------------------------------------------------------------------------------------------------------- single files


@pytest.mark.parametrize(
    ("code", "name", "picture", "facts"),
    [
        ("empty-file", TRAIN0, b"", ""),
        ("not-an-image", TRAIN0, b"this is text", ""),
        ("missing-file", TRAIN0, None, ""),
        ("32-bit", "train/good/x.tif", Image.fromarray(photo(0)[..., 0].astype(np.float32)), ""),
        ("palette", TRAIN0, Image.fromarray(photo(0)).quantize(64), ""),
        ("alpha", TRAIN0, Image.fromarray(np.dstack([photo(0), np.full((SIDE, SIDE), 200, np.uint8)])), ""),
        ("cmyk", "train/good/x.jpg", Image.fromarray(photo(99)).convert("CMYK"), ""),
        ("mixed-sizes", TRAIN0, Image.fromarray(photo(0, side=32)), "64x64 (14), 32x32 (1)"),
        ("mixed-modes", TRAIN0, Image.fromarray(photo(0)[..., 0]), "colour (14), grey (1)"),
    ],
)
def test_a_photo(dataset, code, name, picture, facts):
    path = dataset.add(name)
    if isinstance(picture, Image.Image):
        picture.save(path)
    elif picture is None:
        path.unlink()
    else:
        path.write_bytes(picture)
    (finding,) = dataset.check().itertuples()
    error = code in ("empty-file", "not-an-image", "missing-file", "32-bit")
    assert finding.code == code and finding.severity == ("error" if error else "warning")
    assert finding.path == ("" if code.startswith("mixed") else name) and facts in finding.problem


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_image(dataset, suffix):
    path = save(dataset.add(f"train/good/cut.{suffix}"), photo(99))
    assert not dataset.found()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])  # the header is whole: only decoding tells
    ((severity, code, where),) = dataset.found()
    assert (severity, where) == ("error", f"train/good/cut.{suffix}") and code in ("truncated", "unreadable")


def test_photos_that_are_read_as_they_are_meant(dataset):
    save(dataset.root / TRAIN0, photo(0)[..., 0].astype(np.uint16) * 257)
    save(dataset.root / TRAIN1, photo(1), exif=TURNED)
    pages = [Image.fromarray(photo(seed)) for seed in (200, 201, 202)]
    pages[0].save(dataset.add("train/good/p.tif"), save_all=True, append_images=pages[1:])
    findings = dataset.check().set_index("code")
    assert set(findings.index) == {"16-bit", "mixed-modes", "exif-rotation", "several-pages"}
    assert set(findings["severity"]) == {"warning"}
    for code, fact in {"exif-rotation": "orientation 6", "several-pages": "3 pages", "16-bit": "65535"}.items():
        assert fact in findings.loc[code, "problem"]


def test_masks_among_photos(dataset):
    save(dataset.add("train/good/m.png"), np.dstack([BLOB] * 3))
    assert dataset.found() == {("error", "mask-as-photo", "train/good/m.png")}


# ---------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("code", "mask", "facts"),
    [
        ("mask-size", BLOB[:, :50], "50x64"),
        ("non-binary-mask", BLOB // 255 * 7, "highest 7"),
        ("non-binary-mask", np.where(np.arange(SIDE) < 2, 128, BLOB).astype(np.uint8), "3 value(s), highest 255"),
        ("empty-mask", BLOB * 0, ""),
        ("full-mask", 255 - BLOB, "95.1 %"),
        ("full-mask", BLOB * 0 + 255, "100 %"),
        ("", BLOB // 255, ""),
    ],
)
def test_a_mask(dataset, code, mask, facts):
    save(dataset.root / MASK0, mask)
    findings = dataset.check()
    severity = "error" if code == "mask-size" else "warning"
    assert findings[["severity", "code", "path"]].to_numpy().tolist() == ([[severity, code, MASK0]] if code else [])
    assert not code or facts in findings["problem"].item()


def test_mask_size_is_that_of_the_upright_photo(dataset):
    save(dataset.root / DENT0, photo(300)[:, :32], exif=TURNED)  # 64 rows, 32 columns: upright 32 x 64
    save(dataset.root / MASK0, BLOB[:32])
    assert "mask-size" not in set(dataset.check()["code"])
    save(dataset.root / MASK0, BLOB[:, :32], exif=TURNED)
    found = dataset.found()
    assert ("warning", "exif-rotation", MASK0) in found and ("error", "mask-size", MASK0) not in found


def test_masks_stored_lossily_of_good_photos_or_of_two(dataset):
    lossy, some, none = (f"ground_truth/{name}" for name in ("dent/test0_mask.jpg", "good/some.png", "good/none.png"))
    for mask, pixels in ((lossy, BLOB), (some, BLOB), (none, BLOB * 0)):
        save(dataset.root / mask, pixels)
    dataset.rows[DENT0]["mask_path"] = lossy
    dataset.rows[TEST0]["mask_path"] = some
    dataset.rows[TEST1]["mask_path"] = none  # an empty mask says what the label says
    assert dataset.found() == {("warning", "lossy-mask", lossy), ("error", "mask-on-good", some)}
    assert "4.9 %" in dataset.check().set_index("code")["problem"]["mask-on-good"]  # 200 of 4096 pixels
    dataset.rows["test/dent/test1.png"]["mask_path"] = lossy
    assert ("warning", "shared-mask", lossy) in dataset.found()


def test_missing_and_unreadable_masks(dataset):
    path = dataset.root / MASK0
    path.write_bytes(path.read_bytes()[:60])
    assert {(severity, where) for severity, _, where in dataset.found()} == {("error", MASK0)}
    path.unlink()
    assert dataset.found() == {("error", "missing-mask", MASK0)}
    dataset.rows[DENT0]["mask_path"] = ""
    assert dataset.found() == {("error", "missing-mask", DENT0)}
    for row in dataset.rows.values():  # a dataset without masks is image-level only, which is no fault
        row["mask_path"] = ""
    assert not dataset.found()


# --------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize(
    ("source", "name", "severity", "code"),
    [
        (TRAIN0, TEST0, "error", "split-leak"),
        (TRAIN0, TRAIN1, "warning", "duplicate"),
        (TRAIN0, "test/good/copy.bmp", "error", "split-leak"),
        (TEST0, DENT0, "error", "contradicting-labels"),
    ],
)
def test_copies(dataset, source, name, severity, code):
    if name in dataset.rows:
        (dataset.root / name).write_bytes((dataset.root / source).read_bytes())
    else:  # other bytes, the same pixels
        save(dataset.add(name, "test"), photo(0))
    first, second = sorted([name, source])
    assert dataset.found() == {(severity, code, first)}
    problem = dataset.check()["problem"].item()
    assert second in problem and ("same file" in problem) == (not name.endswith("bmp"))


def test_group_in_two_splits(dataset):
    dataset.rows[TRAIN0]["group"] = dataset.rows[TEST0]["group"] = "part 7"
    assert dataset.found() == {("error", "group-leak", "")} and "part 7" in dataset.check()["problem"].item()


def aligned(seed: int, side: int = 128) -> np.ndarray:
    """A photo of a good part under a fixed camera: one base, another light and other noise in every photo."""
    base, rng = np.random.default_rng(0).integers(60, 180, (8, 8)), np.random.default_rng(1000 + seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = 1 + 0.1 * rng.normal() + 0.08 * rng.normal() * x + 0.08 * rng.normal() * y
    picture = np.kron(base, np.ones((side // 8, side // 8))) * light + rng.normal(0, 8, (side, side))
    return np.clip(np.dstack([picture] * 3), 0, 255).astype(np.uint8)


def test_aligned_photos_are_no_near_duplicates_but_a_reencoded_one_is(tmp_path):
    data = Dataset(tmp_path / "aligned", groups=())
    for number in range(60):
        save(data.add(f"{number:03}.png", ("train", "train", "val", "test")[number % 4]), aligned(number))
    for number in range(3):
        scratched = aligned(100 + number)
        scratched[60:64, 20:90] = 20
        save(data.add(f"scratch{number}.png", "test", "scratch"), scratched)
    assert not data.found()
    # photo 0 of train again in test, as a JPEG; photo 1, brighter, as a JPEG; photo 4, smaller
    save(data.add("again.jpg", "test"), aligned(0), quality=85)
    save(data.add("bright.jpg", "test"), np.clip(aligned(1) * 1.1, 0, 255).astype(np.uint8), quality=90)
    small = Image.fromarray(aligned(4)).resize((64, 64), Image.Resampling.BOX)
    small.save(data.add("small.png", "test"))
    near = data.check().query("code == 'near-duplicate'")
    assert set(near["severity"]) == {"warning"}
    pairs = zip(near["path"], near["problem"].str.extract(r"(\d+\.png)")[0], strict=True)
    assert list(pairs) == [("again.jpg", "000.png"), ("bright.jpg", "001.png"), ("small.png", "004.png")]
    data.rows["again.jpg"]["split"] = "train"  # in one split it does no harm
    assert "again.jpg" not in set(data.check().query("code == 'near-duplicate'")["path"])


def test_near_duplicates_by_the_documented_rule():
    rng = np.random.default_rng(5)
    base = rng.uniform(50, 200, (32, 32))
    grey = np.stack([base + rng.normal(0, 6, (32, 32)) for _ in range(120)])
    grey[100:110] = grey[:10] + rng.normal(0, 0.3, (10, 32, 32))
    splits, normal = np.repeat([0, 1, 2], [80, 20, 20]), np.ones(120, bool)
    pairs = near_duplicate_pairs(np.rint(grey * 128).astype(np.uint16), splits, normal, identical=np.arange(120))
    assert sorted(zip(pairs["first"], pairs["second"], strict=True)) == [(k, 100 + k) for k in range(10)]
    # noise of 0.3 in one of two; 12 of 1024 directions are light and fitted away
    np.testing.assert_allclose(pairs["distance"], 0.3, rtol=0.1)
    np.testing.assert_allclose(pairs["typical"], 6 * np.sqrt(2), rtol=0.1)


# --------------------------------------------------------------------------------------------------------------- counts


def test_too_few_kinds_of_photos(dataset):
    rows = dataset.rows

    def found(keep) -> list[tuple[str, str, str]]:
        dataset.rows = {name: row for name, row in rows.items() if keep(row)}
        return list(dataset.found())

    assert found(lambda row: False) == [("error", "no-photos", "")]
    assert found(lambda row: row["label_index"]) == [("error", "no-normals", "")]
    assert found(lambda row: not row["label_index"]) == [("warning", "no-defects", "")]
    assert found(lambda row: row["split"] != "test" or row["label_index"]) == [("warning", "one-class-test", "")]
    dataset.attrs["scheme"] = "supervised"
    assert found(lambda row: row["label_index"]) == [("warning", "no-normals", "")]


def test_too_few_photos(dataset, tmp_path):
    few = {("warning", "too-few-train", ""), ("warning", "too-few-val", "")}
    assert dataset.found(few=True) == few
    dataset.rows = {name: row for name, row in dataset.rows.items() if row["split"] != "train" or name == TRAIN0}
    assert dataset.found(few=True) == {("error", "too-few-train", ""), ("warning", "too-few-val", "")}
    enough = Dataset(
        tmp_path / "b", (("train", "good", 20), ("val", "good", 20), ("test", "good", 1), ("test", "a", 1))
    )
    assert not enough.found(few=True)
    enough.attrs = {}  # before the split train has to be enough for both
    for row in enough.rows.values():
        row["split"] = ""
    assert not enough.found(few=True)
    del enough.rows[TRAIN0], enough.rows[TRAIN1]
    assert enough.found(few=True) == {("warning", "too-few-train", "")}


def test_defects_in_train(dataset):
    dataset.rows[DENT0]["split"] = "train"
    assert dataset.found() == {("error", "abnormal-in-train", DENT0)}
    dataset.attrs["scheme"] = "supervised"
    assert not dataset.found()


# ----------------------------------------------------------------------------------------------------- names and places


def test_paths_out_of_the_root(dataset):
    save(dataset.root.parent / "store/x.png", photo(77))
    dataset.add("../store/x.png")
    ((severity, code, path),) = dataset.found()
    assert (severity, code) == ("error", "outside-root") and path.endswith("store/x.png")


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("", ["train/good/000.png", "Pr\u00fcfling 1 (oben)/a-b_c.png", "console.png"]),
        ("unusable-name", ["a\nb.png", "a\tb.png", "a\x7f.png"]),
        ("unportable-name", ["what?.png", 'a<b>|"*.png', "a\\b.png", "12:30.png", "folder /a.png", "a.png."]),
        ("unportable-name", ["con/a.png", "LPT1.png", "a" * 250 + ".png"]),
    ],
)
def test_names(tmp_path, code, names):
    rows = [{"image_path": name} for name in [*names, "same.png", "Same.png"]]  # none of them is there
    findings = check_dataset(make_table(rows, root=tmp_path, layout="", name="", published_split=False))
    found = findings.loc[findings["code"].str.contains("name"), "code"].tolist()
    assert sorted(found) == sorted([code] * len(names) * bool(code) + ["name-collision"])
    assert not findings["path"].str.contains(r"[\n\t]").any()


# ------------------------------------------------------------------------------------------------------------- the list


def test_errors_come_first_and_stop_training(dataset):
    save(dataset.root / TEST1, np.dstack([photo(0), photo(1)[..., 0]]))  # alpha: a warning
    for number in range(3):
        (dataset.root / f"train/good/train{number}.png").write_bytes(b"")
    findings = dataset.check()
    assert list(findings["severity"]) == ["error"] * 3 + ["warning"]
    assert list(findings["path"][:3]) == [f"train/good/train{number}.png" for number in range(3)]
    with pytest.raises(DatasetError) as caught:
        raise_on_errors(findings, limit=2)
    assert [f"train{number}.png" in str(caught.value) for number in range(3)] == [True, True, False]
    assert isinstance(caught.value, ValueError)
    raise_on_errors(findings[findings["severity"] == "warning"])


def test_every_file_is_decoded_once_and_the_table_stays(dataset, monkeypatch):
    opened, decode = [], checks.decode_image
    monkeypatch.setattr(checks, "decode_image", lambda path: opened.append(str(path)) or decode(path))
    table = dataset.table()
    before = table.copy()
    first = check_dataset(table)
    pd.testing.assert_frame_equal(table, before)
    assert sorted(opened) == sorted([*table["image_path"], *table["mask_path"][table["mask_path"] != ""]])
    pd.testing.assert_frame_equal(first, check_dataset(table.sample(frac=1, random_state=1)))
