"""Which file of a dataset a name means that was written elsewhere."""

from pathlib import Path

import pytest

from helpers.data.names import match_names

ROOT = Path("/data/set")


def matched(names: list[str], files: list[str], folders: tuple[str, ...] = (), **options: bool) -> dict[str, str]:
    """Names with the file that they mean, "?" where they are refused, without those that are not found."""
    found, refused = match_names(names, [ROOT / file for file in files], ROOT, [ROOT / f for f in folders], **options)
    assert not set(found) & set(refused)
    return {name: file.relative_to(ROOT).as_posix() for name, file in found.items()} | dict.fromkeys(refused, "?")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("./images/a.jpg", "images/a.jpg"),
        ("images\\a.jpg", "images/a.jpg"),
        ("images/part%20A%20%231.png", "images/part A #1.png"),
        ("part A.png", "part%20A.png"),
        ("Gr\u00f6\u00dfe.jpg", "Gro\u0308\u00dfe.jpg"),
        ("Gro\u0308\u00dfe.jpg", "Gr\u00f6\u00dfe.jpg"),
        ("IMAGES/A.JPG", "images/a.jpg"),
        ("D:\\line3\\images\\cam1\\1.png", "images/cam1/1.png"),
        ("1.png", "pictures/2026/1.png"),
        ("https://host/a/images/b%20c.jpg?token=1#x", "images/b c.jpg"),
        ("/data/local-files/?d=set/images/b%20c.jpg", "images/b c.jpg"),
        ("/data/upload/3/1a2b3c4d-part.jpg", "images/part.jpg"),
        ("../../label-studio/data/media/upload/1/1a2b3c4d-part.jpg", "images/1a2b3c4d-part.jpg"),
        ("images/1a2b3c4d-part.jpg", "part.jpg"),
    ],
)
def test_a_name_means_the_file_that_is_written_otherwise(name: str, file: str) -> None:
    assert matched([name], [file, "other/z.png"]) == {name: file}


def test_case_and_encoding_count_where_two_files_differ_by_them_alone() -> None:
    for files in (["a.JPG", "A.JPG"], ["a b.jpg", "a%20b.jpg"], ["\u00f6.jpg", "o\u0308.jpg"]):
        assert matched(files, files) == {file: file for file in files}
    assert matched(["a.jpg"], ["a.JPG", "A.JPG"]) == {"a.jpg": "?"}
    assert matched(["a.JPG", "A.JPG"], ["a.JPG"]) == {"a.JPG": "a.JPG", "A.JPG": "?"}


def test_an_end_that_several_files_have_is_refused() -> None:
    files = ["images/cam1/1.png", "images/cam2/1.png"]
    assert matched(["1.png"], files) == {"1.png": "?"}
    assert matched(["D:\\x\\cam2\\1.png"], files) == {"D:\\x\\cam2\\1.png": "images/cam2/1.png"}
    # the folder that is named first says which
    assert matched(["1.png"], files, ("images/cam2", "images/cam1")) == {"1.png": "images/cam2/1.png"}


def test_names_that_differ_do_not_mean_one_file() -> None:
    names = ["D:\\x\\cam1\\1.png", "D:\\x\\cam2\\1.png"]
    assert matched(names, ["1.png"]) == dict.fromkeys(names, "?")
    assert matched(names, ["pics/cam2/1.png"]) == {names[1]: "pics/cam2/1.png"}
    # two spellings of one name do
    assert matched(["x\\1.png", "./x/1.png"], ["x/1.png"]) == {"x\\1.png": "x/1.png", "./x/1.png": "x/1.png"}


def test_folders_that_say_otherwise_are_minded() -> None:
    assert matched(["train/1.png"], ["val/1.png"]) == {}  # another split
    # but another machine's folders may be called so
    assert matched(["D:\\test\\1.png"], ["train/1.png"]) == {"D:\\test\\1.png": "train/1.png"}
    # a folder that is there without the file has no other
    files = ["cam1/2.png", "cam2/1.png", "1.png"]
    assert matched(["cam1/1.png"], files) == {}
    assert matched(["D:\\x\\cam1\\1.png", "D:\\x\\cam1\\2.png"], files) == {"D:\\x\\cam1\\2.png": "cam1/2.png"}
    # what all names begin with may have another name
    names = ["raw/cam1/1.png", "raw/cam2/1.png", "raw/cam2/2.png"]
    files = ["photos/cam1/1.png", "photos/cam2/1.png"]
    assert matched(names, files) == {names[0]: files[0], names[1]: files[1]}


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "..\\..\\secret.png", "%2e%2e/secret.png", "", ".."])
def test_a_name_never_leads_out_of_the_dataset(name: str) -> None:
    assert matched([name], ["a.png"], ("images",)) == {}


def test_names_without_suffix() -> None:
    files = ["x/p1.JPG", "cam/p2.png"]
    assert matched(["P1", "cam/p2"], files, suffix=False) == {"P1": "x/p1.JPG", "cam/p2": "cam/p2.png"}
    assert matched(["x/p1.jpg"], files, suffix=False) == {"x/p1.jpg": "x/p1.JPG"}  # may lack it
    assert matched(["a.png"], ["a.png", "a.png.jpg"], suffix=False) == {"a.png": "?"}
    assert matched(["p1"], ["p1.jpg", "p1.png"], suffix=False) == {"p1": "?"}
