from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

import pytest

from tasks import pair_folders
from tasks.codes import Code, PairError
from tasks.index import EmptyArchive, IndexedPair, split_suffix
from tasks.pair_folders import index_folders
from tasks.storage import DANGLING, StorageError, StoredFile, absolute, join, stat_file, write_atomic
from tests.runs import plan_pairs


def make(root: str, *names: str) -> None:
    for name in names:
        write_atomic(join(root, name), name.encode())


def folders(root: str) -> list[IndexedPair]:
    with tempfile.TemporaryDirectory() as scratch:
        index = index_folders(join(root, "ir"), join(root, "vi"), Path(scratch))
        pairs = list(index.pairs())
        assert index.rows == len(pairs)
        return pairs


def test_pairs_by_stem_and_folder(root: str) -> None:
    make(root, "ir/a.png", "ir/sub/a.TIFF", "ir/b.c.png", "ir/B.jpg", "ir/sub/deep/a.bmp")
    make(root, "vi/a.jpg", "vi/sub/a.png", "vi/b.c.webp", "vi/B.jpg", "vi/sub/deep/a.bmp")
    pairs = folders(root)
    assert [pair.pair_key for pair in pairs] == ["B", "a", "b.c", "sub/a", "sub/deep/a"]
    assert all(pair.code is None and pair.detail == "" for pair in pairs)
    first, second = stat_file(join(root, "ir/sub/a.TIFF")), stat_file(join(root, "vi/sub/a.png"))
    assert pairs[3] == IndexedPair(
        pair_key="sub/a",
        first_uri=absolute(join(root, "ir/sub/a.TIFF")),
        second_uri=absolute(join(root, "vi/sub/a.png")),
        first_fingerprint=first.fingerprint,
        second_fingerprint=second.fingerprint,
        first_size=len("ir/sub/a.TIFF"),
        second_size=len("vi/sub/a.png"),
    )


def test_everything_else_becomes_a_row(root: str) -> None:
    make(root, "ir/ok.png", "ir/only.png", "ir/tie.png", "ir/tie.jpg", "ir/Case.png", "ir/notes.txt", "ir/Thumbs.db")
    make(root, "vi/ok.png", "vi/tie.png", "vi/case.png", "vi/Thumbs.db", "vi/volume.nii.gz", "vi/no_suffix")
    make(root, "vi/sub/two.png", "vi/sub/two.PNG", "ir/.hidden.png", "ir/_ddfm/x.png")
    rows = {pair.pair_key: pair for pair in folders(root)}
    assert list(rows) == sorted(rows)
    assert {key: row.code for key, row in rows.items()} == {
        "Case": Code.NO_PARTNER,
        "Thumbs.db": Code.NOT_IMAGE,
        "case": Code.NO_PARTNER,
        "no_suffix": Code.NOT_IMAGE,
        "notes.txt": Code.NOT_IMAGE,
        "ok": None,
        "only": Code.NO_PARTNER,
        "sub/two": Code.AMBIGUOUS_PAIR,
        "tie": Code.AMBIGUOUS_PAIR,
        "volume.nii.gz": Code.NOT_IMAGE,
    }
    assert rows["tie"].detail == "first: tie.jpg, tie.png"
    assert rows["tie"].second_uri == absolute(join(root, "vi/tie.png"))
    assert rows["sub/two"].detail == "second: two.PNG, two.png"
    assert rows["sub/two"].first_uri is None
    assert rows["only"].detail == "the second side has none"
    assert (rows["only"].second_uri, rows["only"].second_fingerprint, rows["only"].second_size) == (None, None, None)
    assert rows["case"].detail == "the first side has none"
    assert rows["Thumbs.db"].first_uri == absolute(join(root, "ir/Thumbs.db"))
    assert rows["Thumbs.db"].second_uri == absolute(join(root, "vi/Thumbs.db"))
    assert rows["notes.txt"].second_uri is None


def test_the_fingerprint_of_a_tie_covers_all_its_files(root: str) -> None:
    make(root, "ir/a.png", "ir/a.jpg", "vi/a.png")
    (before,) = folders(root)
    assert before == folders(root)[0]
    write_atomic(join(root, "ir/a.png"), b"changed!")
    (after,) = folders(root)
    assert after.first_fingerprint != before.first_fingerprint
    assert after.first_uri == before.first_uri == absolute(join(root, "ir/a.jpg"))


def test_a_side_without_images(root: str, tmp_path: Path) -> None:
    make(root, "ir/a.png", "vi/a.dcm", "vi/b.dcm")
    with pytest.raises(EmptyArchive, match=r"^no images below .*/vi \(2 files, none ending in \.bmp .*\.webp\)$"):
        folders(root)
    if not root.startswith("memory"):
        (Path(root) / "empty").mkdir()
        with pytest.raises(EmptyArchive, match=r"^no images below .*/empty$"):
            index_folders(join(root, "empty"), join(root, "ir"), tmp_path)
    with pytest.raises(StorageError, match="does not exist"):
        index_folders(join(root, "ir"), join(root, "none"), tmp_path)


def test_key_of_an_image_and_of_another_file(root: str) -> None:
    make(root, "ir/notes.txt.png", "ir/notes.txt", "ir/notes.txt~", "ir/z.png", "vi/notes.txt.png", "vi/z.png")
    assert [(pair.pair_key, pair.code) for pair in folders(root)] == [
        ("notes.txt", None),
        ("notes.txt~", Code.NOT_IMAGE),
        ("notes.txt~~", Code.NOT_IMAGE),
        ("z", None),
    ]


def test_names_that_no_table_can_hold(tmp_path: Path) -> None:
    make(str(tmp_path), "ir/a.png", "vi/a.png")
    for side in ("ir", "vi"):
        Path(os.fsdecode(os.fsencode(tmp_path / side) + b"/caf\xe9.png")).write_bytes(b"x")
    good, bad = folders(str(tmp_path))
    assert good.code is None
    assert (bad.pair_key, bad.code) == ("unusable-caf%E9.png", Code.NAME_UNUSABLE)
    assert bad.first_uri == f"{tmp_path}/ir/unusable-caf%E9.png"
    assert len(plan_pairs([good, bad], None, "h", 8, 64).manifest) == 2


def test_links_to_nothing_are_missing_sources(tmp_path: Path) -> None:
    make(str(tmp_path), "ir/a.png", "vi/b.png", "vi/a.png")
    (tmp_path / "ir/b.png").symlink_to(tmp_path / "none")
    _, row = folders(str(tmp_path))
    assert (row.pair_key, row.code, row.first_fingerprint) == ("b", Code.MISSING_SOURCE, DANGLING)
    assert row.detail == "the first source is a link to nothing"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.png", ("a", ".png")),
        ("s.x/a.b.PNG", ("s.x/a.b", ".PNG")),
        ("s.x/a", ("s.x/a", "")),
        ("s/v.nii.gz", ("s/v", ".nii.gz")),
        ("v.NII.GZ", ("v", ".NII.GZ")),
        ("v.tar.gz", ("v.tar", ".gz")),
        ("a.", ("a", ".")),
    ],
)
def test_split_suffix(path: str, expected: tuple[str, str]) -> None:
    assert split_suffix(path) == expected


def test_a_large_archive_is_indexed_in_seconds(tmp_path: Path) -> None:
    for side in ("ir", "vi"):
        for folder in range(20):
            (tmp_path / side / f"{folder:02d}").mkdir(parents=True)
            for number in range(250):
                (tmp_path / side / f"{folder:02d}" / f"{number:03d}.png").touch()
    began = time.process_time()
    pairs = folders(str(tmp_path))
    assert len(pairs) == 5000
    assert [pair.pair_key for pair in pairs] == sorted(pair.pair_key for pair in pairs)
    assert time.process_time() - began < 1


def by_content(root: str) -> list[IndexedPair]:
    with tempfile.TemporaryDirectory() as scratch:
        index = index_folders(join(root, "ir"), join(root, "vi"), Path(scratch), "content")
        return list(index.pairs())


def test_fingerprints_by_content(root: str) -> None:
    make(root, "ir/a.png", "ir/b.png", "ir/x.txt", "vi/a.png", "vi/b.png")
    first = by_content(root)
    digest = hashlib.sha256(b"ir/a.png").hexdigest()
    assert first[0].first_fingerprint == f"8-sha256-{digest}"
    # The same bytes written anew, and others of the same length.
    write_atomic(join(root, "ir/a.png"), b"ir/a.png")
    write_atomic(join(root, "vi/b.png"), b"VI/B.PNG")
    second = by_content(root)
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert first[1].first_fingerprint == second[1].first_fingerprint
    write_atomic(join(root, "ir/renamed.png"), b"ir/a.png")
    assert by_content(root)[2].first_fingerprint == f"8-sha256-{digest}"


def test_a_file_that_cannot_be_hashed_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(str(tmp_path), "ir/a.png", "ir/b.png", "vi/a.png", "vi/b.png")
    (tmp_path / "ir/c.png").symlink_to(tmp_path / "nowhere")
    make(str(tmp_path), "vi/c.png")
    right = pair_folders.content_fingerprint

    def refused(file: StoredFile) -> str:
        if file.relative == "b.png":
            raise PairError(Code.PERMISSION_DENIED, "PermissionError")
        return right(file)

    monkeypatch.setattr(pair_folders, "content_fingerprint", refused)
    assert [(pair.pair_key, pair.code, pair.detail) for pair in by_content(str(tmp_path))] == [
        ("a", None, ""),
        ("b", Code.PERMISSION_DENIED, "the first source could not be read: PermissionError"),
        ("c", Code.MISSING_SOURCE, "the first source is a link to nothing"),
    ]


def test_when_a_pair_was_modified(tmp_path: Path) -> None:
    make(str(tmp_path), "ir/a.png", "vi/a.png", "ir/b.png")
    os.utime(tmp_path / "ir/a.png", (1000, 2000.5))
    os.utime(tmp_path / "vi/a.png", (1000, 1000))
    os.utime(tmp_path / "ir/b.png", (1000, 3000))
    assert [pair.modified for pair in folders(str(tmp_path))] == [2000.5, 3000]


def test_groups_are_whole_wherever_a_piece_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n:02d}" for n in range(20)]
    make(str(tmp_path), *(f"ir/{name}.png" for name in names), *(f"vi/{name}.png" for name in names))
    make(str(tmp_path), *(f"ir/07{suffix}" for suffix in (".bmp", ".jpg", ".tif", ".webp", ".PNG")), "vi/19.jpg")
    whole = folders(str(tmp_path))
    assert [pair.pair_key for pair in whole if pair.code] == ["07", "19"]
    for rows in (1, 2, 3, 7):
        monkeypatch.setattr(pair_folders, "ROWS", rows)
        assert folders(str(tmp_path)) == whole


def test_many_files_that_need_another_key(root: str) -> None:
    names = [f"{n:03d}" for n in range(50)]
    make(root, *(f"ir/{name}.png" for name in names), *(f"ir/{name}" for name in names), "ir/007~", "ir/007~~.png")
    make(root, "vi/000.png", "vi/007")
    rows = {pair.pair_key: pair for pair in folders(root)}
    assert len(rows) == 102
    assert list(rows) == sorted(rows)
    assert rows["000~"].first_uri == absolute(join(root, "ir/000"))
    # 007~ and 007~~ are other files' own keys.
    assert rows["007~~~"].first_uri == absolute(join(root, "ir/007"))
    assert rows["007~~~"].second_uri == absolute(join(root, "vi/007"))
    assert (rows["007~"].code, rows["007~~"].code) == (Code.NOT_IMAGE, Code.NO_PARTNER)
