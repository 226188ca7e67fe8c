"""Every finding is provoked by a file made for it."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import helpers
from helpers.data import checks
from helpers.data.checks import DatasetError, check_dataset, name_problems, near_duplicate_pairs, raise_on_errors

COLUMNS = ["image_path", "mask_path", "label_index", "defect_type", "split", "group"]
SIDE = 64


def photo(seed, *, side=SIDE):
    """A picture of its own: coarse blocks and noise."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(50, 200, (8, 8, 3)), np.ones((side // 8, side // 8, 1)))
    return np.clip(blocks + rng.normal(0, 5, (side, side, 3)), 0, 255).astype(np.uint8)


def blob():
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:30, 20:40] = 255
    return mask


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


class Dataset:
    """A small clean dataset: 6 normal photos in train, 3 in val, 3 and 3 with defects (and masks) in test."""

    def __init__(self, root):
        self.root = root
        self.rows = []
        self.attrs = {"root": str(root), "name": "tiny", "layout": "mvtec", "scheme": "one_class"}
        seed = 0
        for split, kind, count in (("train", "good", 6), ("val", "good", 3), ("test", "good", 3), ("test", "dent", 3)):
            for number in range(count):
                folder = "train" if split == "val" else split
                name = f"{split}{number}"
                save(root / folder / kind / f"{name}.png", photo(seed))
                if kind == "dent":
                    save(root / "ground_truth" / kind / f"{name}_mask.png", blob())
                self.add(f"{folder}/{kind}/{name}.png", split, kind)
                seed += 1

    def add(self, name, split, kind, mask=None, group=None):
        if mask is None:
            stem = name.rsplit("/", 1)[-1].split(".")[0]
            mask = f"ground_truth/{kind}/{stem}_mask.png" if kind != "good" else ""
        self.rows.append(
            {
                "image_path": str(self.root / name),
                "mask_path": str(self.root / mask) if mask else "",
                "label_index": int(kind != "good"),
                "defect_type": kind,
                "split": split,
                "group": group or name,
            }
        )
        return self.root / name

    def row(self, name):
        return next(row for row in self.rows if row["image_path"] == str(self.root / name))

    def table(self):
        table = pd.DataFrame(self.rows, columns=COLUMNS)
        table.attrs = dict(self.attrs)
        return table

    def check(self, **options):
        return check_dataset(self.table(), **{"min_train": 6, "min_val": 3, **options})


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path / "data")


def found(findings):
    """Set of (severity, code, path)."""
    return set(findings[["severity", "code", "path"]].itertuples(index=False, name=None))


def test_clean_dataset_has_no_findings(dataset):
    findings = dataset.check()
    assert list(findings.columns) == ["code", "severity", "path", "problem", "fix"]
    assert len(findings) == 0
    raise_on_errors(findings)
    assert helpers.check_dataset is check_dataset


def test_table_needs_columns_and_root(dataset):
    with pytest.raises(ValueError, match="mask_path"):
        check_dataset(dataset.table().drop(columns="mask_path"))
    table = dataset.table()
    table.attrs = {}
    with pytest.raises(ValueError, match="root"):
        check_dataset(table)


# --------------------------------------------------------------------------------------------------------- single files

TRAIN0, TRAIN1, TEST0 = "train/good/train0.png", "train/good/train1.png", "test/good/test0.png"
DENT0, MASK0 = "test/dent/test0.png", "ground_truth/dent/test0_mask.png"


def test_empty_file(dataset):
    (dataset.root / TRAIN0).write_bytes(b"")
    assert found(dataset.check()) == {("error", "empty-file", TRAIN0)}


def test_not_an_image(dataset):
    (dataset.root / TRAIN0).write_text("this is text")
    assert found(dataset.check()) == {("error", "not-an-image", TRAIN0)}


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_image(dataset, suffix):
    name = f"train/good/cut.{suffix}"
    path = save(dataset.root / name, photo(99))
    dataset.add(name, "train", "good")
    assert len(dataset.check()) == 0
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])  # the header is whole: only decoding tells
    ((severity, code, where),) = found(dataset.check())
    assert (severity, where) == ("error", name)
    assert code in ("truncated", "unreadable")


def test_missing_file(dataset):
    (dataset.root / TRAIN0).unlink()
    assert found(dataset.check()) == {("error", "missing-file", TRAIN0)}


def test_sixteen_bits(dataset):
    save(dataset.root / TRAIN0, photo(0)[..., 0].astype(np.uint16) * 257)
    findings = dataset.check()
    assert found(findings) == {("warning", "16-bit", TRAIN0), ("warning", "mixed-modes", "")}
    assert "colour (14), grey (1)" in findings.loc[findings["code"] == "mixed-modes", "problem"].item()


def test_thirty_two_bits(dataset):
    path = dataset.root / "train/good/deep.tif"
    save(path, photo(0)[..., 0].astype(np.float32))
    dataset.add("train/good/deep.tif", "train", "good")
    assert found(dataset.check()) == {("error", "32-bit", "train/good/deep.tif")}


def test_palette(dataset):
    Image.fromarray(photo(0)).quantize(64).save(dataset.root / TRAIN0)
    assert found(dataset.check()) == {("warning", "palette", TRAIN0)}


def test_alpha(dataset):
    save(dataset.root / TRAIN0, np.dstack([photo(0), np.full((SIDE, SIDE), 200, np.uint8)]))
    assert found(dataset.check()) == {("warning", "alpha", TRAIN0)}


def test_cmyk(dataset):
    Image.fromarray(photo(0)).convert("CMYK").save(dataset.root / "train/good/c.jpg")
    dataset.add("train/good/c.jpg", "val", "good")
    findings = dataset.check(near_duplicates=False)
    assert found(findings) == {("warning", "cmyk", "train/good/c.jpg")}


def test_exif_rotation(dataset):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(dataset.root / TRAIN0, photo(0), exif=exif)
    findings = dataset.check()
    assert found(findings) == {("warning", "exif-rotation", TRAIN0)}
    assert "orientation 6" in findings["problem"].item()


def test_several_pages(dataset):
    pages = [Image.fromarray(photo(seed)) for seed in (200, 201, 202)]
    pages[0].save(dataset.root / "train/good/p.tif", save_all=True, append_images=pages[1:])
    dataset.add("train/good/p.tif", "train", "good")
    findings = dataset.check()
    assert found(findings) == {("warning", "several-pages", "train/good/p.tif")}
    assert "3 pages" in findings["problem"].item()


def test_mixed_sizes(dataset):
    save(dataset.root / TRAIN0, photo(0, side=32))
    findings = dataset.check()
    assert found(findings) == {("warning", "mixed-sizes", "")}
    assert "64x64 (14), 32x32 (1)" in findings["problem"].item()


# ---------------------------------------------------------------------------------------------------------------- masks


def test_mask_of_another_size(dataset):
    save(dataset.root / MASK0, blob()[:, :50])
    findings = dataset.check()
    assert found(findings) == {("error", "mask-size", MASK0)}
    assert "50x64" in findings["problem"].item()


def test_mask_size_is_that_of_the_upright_photo(dataset):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = photo(300)[:, :32]  # 64 rows, 32 columns: upright 32 x 64
    save(dataset.root / DENT0, stored, exif=exif)
    save(dataset.root / MASK0, blob()[:32])
    assert "mask-size" not in set(dataset.check()["code"])
    save(dataset.root / MASK0, blob()[:, :32])
    assert ("error", "mask-size", MASK0) in found(dataset.check())


@pytest.mark.parametrize(("values", "shown"), [((0, 128, 255), "3 value(s), highest 255"), ((0, 7), "highest 7")])
def test_non_binary_mask(dataset, values, shown):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for number, value in enumerate(values):
        mask[number] = value
    save(dataset.root / MASK0, mask)
    findings = dataset.check()
    assert found(findings) == {("warning", "non-binary-mask", MASK0)}
    assert shown in findings["problem"].item()


def test_masks_of_zero_and_one_are_fine(dataset):
    save(dataset.root / MASK0, blob() // 255)
    assert len(dataset.check()) == 0


def test_lossy_mask(dataset):
    save(dataset.root / "ground_truth/dent/test0_mask.jpg", blob())
    (dataset.root / MASK0).unlink()
    dataset.row(DENT0)["mask_path"] = str(dataset.root / "ground_truth/dent/test0_mask.jpg")
    assert found(dataset.check()) == {("warning", "lossy-mask", "ground_truth/dent/test0_mask.jpg")}


def test_empty_mask_on_defect_photo(dataset):
    save(dataset.root / MASK0, blob() * 0)
    assert found(dataset.check()) == {("warning", "empty-mask", MASK0)}


def test_mask_on_good_photo(dataset):
    save(dataset.root / "ground_truth/good/none.png", blob() * 0)
    dataset.row("test/good/test1.png")["mask_path"] = str(dataset.root / "ground_truth/good/none.png")
    assert len(dataset.check()) == 0  # an empty mask says what the label says
    save(dataset.root / "ground_truth/good/some.png", blob())
    dataset.row(TEST0)["mask_path"] = str(dataset.root / "ground_truth/good/some.png")
    findings = dataset.check()
    assert found(findings) == {("error", "mask-on-good", "ground_truth/good/some.png")}
    assert "4.9 %" in findings["problem"].item()  # 200 of 4096 pixels


@pytest.mark.parametrize("mask", [blob() * 0 + 255, 255 - blob()])
def test_a_mask_that_is_full_or_inverted(dataset, mask):
    save(dataset.root / MASK0, mask)
    assert found(dataset.check()) == {("warning", "full-mask", MASK0)}


def test_missing_mask(dataset):
    (dataset.root / MASK0).unlink()
    assert found(dataset.check()) == {("error", "missing-mask", MASK0)}
    dataset.row(DENT0)["mask_path"] = ""
    assert found(dataset.check()) == {("error", "missing-mask", DENT0)}
    for row in dataset.rows:  # a dataset without masks is image-level only, which is no fault
        row["mask_path"] = ""
    assert found(dataset.check()) == {
        ("warning", "mask-without-photo", f"ground_truth/dent/test{number}_mask.png") for number in (1, 2)
    }


def test_unreadable_mask(dataset):
    path = dataset.root / MASK0
    path.write_bytes(path.read_bytes()[:60])
    ((severity, _, where),) = found(dataset.check())
    assert (severity, where) == ("error", MASK0)


def test_shared_mask(dataset):
    dataset.row("test/dent/test1.png")["mask_path"] = str(dataset.root / MASK0)
    assert ("warning", "shared-mask", MASK0) in found(dataset.check())


def test_mask_without_photo(dataset):
    save(dataset.root / "ground_truth/dent/lost_mask.png", blob())
    save(dataset.root / "ground_truth/crack/000_mask.png", blob())
    assert found(dataset.check()) == {
        ("warning", "mask-without-photo", "ground_truth/dent/lost_mask.png"),
        ("warning", "mask-without-photo", "ground_truth/crack/000_mask.png"),
    }
    dataset.attrs["unused_masks"] = ["ground_truth/dent/lost_mask.png"]  # what the reader found is taken as it is
    dataset.attrs["ignored"] = ["train/good/notes.txt"]
    save(dataset.root / "ground_truth/dent/blank_mask.png", np.zeros_like(blob()))
    dataset.attrs["unused_masks"].append("ground_truth/dent/blank_mask.png")
    # its photo may count as normal; an empty mask takes nothing from anybody
    assert found(dataset.check()) == {
        ("error", "mask-without-photo", "ground_truth/dent/lost_mask.png"),
        ("warning", "mask-without-photo", "ground_truth/dent/blank_mask.png"),
        ("info", "ignored-file", "train/good/notes.txt"),
    }


def test_masks_beside_photos(dataset):
    """The magnetic-tile layout: JPEG photo beside PNG mask; a table of a part of it is no reason to complain."""
    for name in ("a", "b"):
        save(dataset.root / f"crack/{name}.jpg", photo(ord(name)))
        save(dataset.root / f"crack/{name}.png", blob())
    dataset.add("crack/a.jpg", "test", "crack", mask="crack/a.png")
    assert len(dataset.check()) == 0
    save(dataset.root / "crack/lost.png", blob())
    assert found(dataset.check()) == {("warning", "mask-without-photo", "crack/lost.png")}


# --------------------------------------------------------------------------------------------------------------- copies


def test_same_file_in_two_splits(dataset):
    (dataset.root / TEST0).write_bytes((dataset.root / TRAIN0).read_bytes())
    findings = dataset.check()
    assert found(findings) == {("error", "split-leak", TRAIN0)}
    assert "same file" in findings["problem"].item()
    assert TEST0 in findings["problem"].item()


def test_same_pixels_in_two_splits(dataset):
    save(dataset.root / "test/good/copy.bmp", photo(0))
    dataset.add("test/good/copy.bmp", "test", "good")
    findings = dataset.check()
    assert found(findings) == {("error", "split-leak", TRAIN0)}
    assert "same pixels" in findings["problem"].item()


def test_same_content_in_one_split(dataset):
    (dataset.root / TRAIN1).write_bytes((dataset.root / TRAIN0).read_bytes())
    assert found(dataset.check()) == {("warning", "duplicate", TRAIN0)}


def test_same_content_with_contradicting_labels(dataset):
    (dataset.root / DENT0).write_bytes((dataset.root / TEST0).read_bytes())
    findings = dataset.check()
    assert {row[:2] for row in found(findings)} == {("error", "contradicting-labels")}
    assert "normal" in findings["problem"].item()


def test_group_in_two_splits(dataset):
    for name in (TRAIN0, TEST0):
        dataset.row(name)["group"] = "part 7"
    findings = dataset.check()
    assert found(findings) == {("error", "group-leak", "")}
    assert "part 7" in findings["problem"].item()


def aligned(seed, *, noise=8.0, side=128):
    """A photo of a good part under a fixed camera: one base, another light and other noise in every photo."""
    base = np.random.default_rng(0).integers(60, 180, (8, 8))
    rng = np.random.default_rng(1000 + seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = 1 + 0.1 * rng.normal() + 0.08 * rng.normal() * x + 0.08 * rng.normal() * y
    picture = np.kron(base, np.ones((side // 8, side // 8))) * light + rng.normal(0, noise, (side, side))
    return np.clip(np.dstack([picture] * 3), 0, 255).astype(np.uint8)


def aligned_dataset(root):
    data = Dataset.__new__(Dataset)
    data.root, data.rows = root, []
    data.attrs = {"root": str(root), "scheme": "one_class"}
    for number in range(60):
        split = ("train", "train", "val", "test")[number % 4]
        save(root / f"{number:03}.png", aligned(number))
        data.add(f"{number:03}.png", split, "good")
    for number in range(3):
        scratched = aligned(100 + number)
        scratched[60:64, 20:90] = 20
        save(root / f"scratch{number}.png", scratched)
        data.add(f"scratch{number}.png", "test", "scratch", mask="")
    return data


def test_aligned_photos_are_no_near_duplicates_but_a_reencoded_one_is(tmp_path):
    data = aligned_dataset(tmp_path / "aligned")
    assert len(data.check()) == 0
    # photo 0 of train again in test, as a JPEG; photo 1, brighter, as a JPEG; photo 4, smaller
    save(data.root / "again.jpg", aligned(0), quality=85)
    save(data.root / "bright.jpg", np.clip(aligned(1) * 1.1, 0, 255).astype(np.uint8), quality=90)
    Image.fromarray(aligned(4)).resize((64, 64), Image.Resampling.BOX).save(data.root / "small.png")
    for name in ("again.jpg", "bright.jpg", "small.png"):
        data.add(name, "test", "good")
    findings = data.check()
    near = findings[findings["code"] == "near-duplicate"].set_index("path")
    assert list(near.index) == ["again.jpg", "bright.jpg", "small.png"]
    assert set(near["severity"]) == {"warning"}
    assert "000.png (train)" in near.loc["again.jpg", "problem"]
    assert "001.png (train)" in near.loc["bright.jpg", "problem"]
    assert "004.png (train)" in near.loc["small.png", "problem"]
    assert "near-duplicate" not in set(data.check(near_duplicates=False)["code"])
    data.row("again.jpg")["split"] = "train"  # in one split it does no harm
    near = data.check().query("code == 'near-duplicate'")
    assert "again.jpg" not in set(near["path"])


def test_near_duplicates_against_all_pairs():
    """The hash search finds what comparing all pairs by the documented rule finds."""
    rng = np.random.default_rng(5)
    base = rng.uniform(50, 200, (32, 32))
    grey = np.stack([base + rng.normal(0, 6, (32, 32)) for _ in range(120)])
    grey[100:110] = grey[:10] + rng.normal(0, 0.3, (10, 32, 32))
    thumbnails = np.rint(grey * 128).astype(np.uint16)
    splits = np.repeat([0, 1, 2], [80, 20, 20])
    first, second, distance, typical = near_duplicate_pairs(
        thumbnails, splits, np.ones(120, bool), identical=np.arange(120)
    )
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [(k, 100 + k) for k in range(10)]
    # noise of 0.3 in one of two; 12 of 1024 directions are light and fitted away
    np.testing.assert_allclose(distance, 0.3, rtol=0.1)
    np.testing.assert_allclose(typical, 6 * np.sqrt(2), rtol=0.1)


# ---------------------------------------------------------------------------------------------------- counts and labels


def test_no_photos(dataset):
    dataset.rows = []
    assert found(dataset.check()) == {("error", "no-photos", "")}


def test_no_normal_photos(dataset):
    dataset.rows = [row for row in dataset.rows if row["label_index"]]
    assert found(dataset.check()) == {("error", "no-normals", "")}


def test_no_defect_photos(dataset):
    dataset.rows = [row for row in dataset.rows if not row["label_index"]]
    findings = dataset.check()
    assert ("warning", "no-defects", "") in found(findings)
    assert "only false alarms" in findings.set_index("code").loc["no-defects", "problem"]


def test_test_of_one_class(dataset):
    dataset.rows = [row for row in dataset.rows if row["split"] != "test" or row["label_index"]]
    assert found(dataset.check()) == {("warning", "one-class-test", "")}


def test_too_few_photos(dataset):
    assert found(dataset.check(min_train=7, min_val=4)) == {
        ("warning", "too-few-train", ""),
        ("warning", "too-few-val", ""),
    }
    assert {row[1] for row in found(check_dataset(dataset.table()))} == {"too-few-train", "too-few-val"}
    dataset.rows = [row for row in dataset.rows if row["split"] != "train"] + [dataset.row(TRAIN0)]
    assert found(dataset.check()) == {("error", "too-few-train", "")}


def test_too_few_photos_before_the_split(dataset):
    del dataset.attrs["scheme"]
    for row in dataset.rows:
        row["split"] = ""
    assert len(dataset.check(min_train=8, min_val=4)) == 0  # 12 normal photos
    assert found(dataset.check(min_train=8, min_val=5)) == {("warning", "too-few-train", "")}


def test_labels(dataset):
    dataset.row(TRAIN0)["label_index"] = 2
    assert ("error", "invalid-label", TRAIN0) in found(dataset.check())
    dataset.row(TRAIN0)["label_index"] = None
    assert ("error", "invalid-label", TRAIN0) in found(dataset.check())
    dataset.row(TRAIN0)["label_index"] = 1
    codes = {row[:2] for row in found(dataset.check()) if row[2] == TRAIN0}
    assert {("error", "label-and-type"), ("error", "abnormal-in-train")} <= codes
    dataset.attrs["scheme"] = "supervised"
    assert "abnormal-in-train" not in set(dataset.check()["code"])


def test_unknown_split(dataset):
    dataset.row(TRAIN0)["split"] = "training"
    assert ("error", "invalid-split", TRAIN0) in found(dataset.check())


def test_duplicate_rows(dataset):
    dataset.rows.append(dict(dataset.row(TRAIN0)))
    assert found(dataset.check()) == {("error", "duplicate-row", TRAIN0)}


# ----------------------------------------------------------------------------------------------------- names and places


def test_path_outside_the_root(dataset):
    save(dataset.root.parent / "elsewhere.png", photo(77))
    path = str(dataset.root / ".." / "elsewhere.png")
    dataset.add("../elsewhere.png", "train", "good")
    assert dataset.rows[-1]["image_path"] == path
    assert {row[:2] for row in found(dataset.check())} == {("error", "outside-root")}


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_link_out_of_the_root(dataset, linked):
    outside = save(dataset.root.parent / "outside" / "x.png", photo(77))
    try:
        if linked == "file":
            (dataset.root / "train/good/x.png").symlink_to(outside)
        else:
            (dataset.root / "train/more").symlink_to(outside.parent, target_is_directory=True)
    except OSError:
        pytest.skip("this machine makes no symbolic links")
    name = "train/good/x.png" if linked == "file" else "train/more/x.png"
    dataset.add(name, "train", "good")
    assert found(dataset.check()) == {("warning", "outside-root", name)}


def test_link_inside_the_root_is_fine(dataset):
    save(dataset.root / "store/x.png", photo(77))
    try:
        (dataset.root / "train/good/x.png").symlink_to(dataset.root / "store/x.png")
    except OSError:
        pytest.skip("this machine makes no symbolic links")
    dataset.add("train/good/x.png", "train", "good")
    assert len(dataset.check()) == 0


@pytest.mark.parametrize(
    ("name", "serious", "portable"),
    [
        ("train/good/000.png", 0, 0),
        ("Prüfling 1 (oben)/a-b_c.png", 0, 0),
        ("a\nb.png", 1, 0),
        ("a\x7f.png", 1, 0),
        ("a\udcff.png", 1, 0),
        ("what?.png", 0, 1),
        ('a<b>|"*.png', 0, 1),
        ("a\\b.png", 0, 1),
        ("12:30.png", 0, 1),
        ("folder /a.png", 0, 1),
        ("a.png.", 0, 1),
        ("con/a.png", 0, 1),
        ("LPT1.png", 0, 1),
        ("console.png", 0, 0),
        ("a" * 250 + ".png", 0, 1),
    ],
)
def test_names(name, serious, portable):
    problems = name_problems(name)
    assert (len(problems[0]), len(problems[1])) == (serious, portable)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot hold these names")
def test_unusable_names(dataset):
    for number, name in enumerate(("a\tb.png", "what?.png", "same.png", "Same.png")):
        save(dataset.root / "train/good" / name, photo(400 + number))
        dataset.add(f"train/good/{name}", "train", "good")
    if len(os.listdir(dataset.root / "train/good")) < 13:  # noqa: PTH208
        pytest.skip("the file system does not tell upper from lower case")
    assert found(dataset.check()) == {
        ("error", "unusable-name", "train/good/a\\tb.png"),
        ("warning", "unportable-name", "train/good/what?.png"),
        ("warning", "name-collision", "train/good/same.png"),
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux file names are bytes")
def test_names_that_are_no_utf8(dataset):
    name = os.fsdecode(b"train/good/caf\xe9.png")
    data = io.BytesIO()
    Image.fromarray(photo(500)).save(data, "PNG")
    path = dataset.root / name
    path.write_bytes(data.getvalue())
    table = dataset.table().astype(object)
    row = {**dataset.row(TRAIN0), "image_path": str(path), "group": "x"}
    table = pd.concat([table, pd.DataFrame([row], dtype=object)], ignore_index=True)
    table.attrs = dict(dataset.attrs)
    findings = check_dataset(table, min_train=6, min_val=3)
    assert found(findings) == {("error", "unusable-name", "train/good/caf\\udce9.png")}


# ------------------------------------------------------------------------------------------------------------- the list


def test_errors_come_first_and_stop_training(dataset):
    save(dataset.root / "test/good/test1.png", np.dstack([photo(0), photo(1)[..., 0]]))  # alpha: a warning
    for number in range(3):
        (dataset.root / f"train/good/train{number}.png").write_bytes(b"")
    findings = dataset.check()
    assert list(findings["severity"]) == ["error"] * 3 + ["warning"]
    assert list(findings["path"][:3]) == [f"train/good/train{number}.png" for number in range(3)]
    with pytest.raises(DatasetError, match="3 errors") as caught:
        raise_on_errors(findings, limit=2)
    message = str(caught.value)
    assert "train0.png: has zero bytes; copy it again" in message
    assert "train2.png" not in message
    assert "and 1 more" in message
    assert len(caught.value.findings) == 3
    assert isinstance(caught.value, ValueError)
    raise_on_errors(findings[findings["severity"] == "warning"])


def test_every_file_is_decoded_once(dataset, monkeypatch):
    opened = []
    decode = checks.decode_image

    def counted(path, data=None):
        opened.append(str(path))
        return decode(path, data)

    monkeypatch.setattr(checks, "decode_image", counted)
    dataset.check(workers=2)
    table = dataset.table()
    assert sorted(opened) == sorted([*table["image_path"], *table["mask_path"][table["mask_path"] != ""]])


def test_the_table_is_not_changed(dataset):
    table = dataset.table()
    before = table.copy()
    first = check_dataset(table, workers=1)
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(first, check_dataset(table.sample(frac=1, random_state=1), workers=2))
