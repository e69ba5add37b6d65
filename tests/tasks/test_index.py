from __future__ import annotations

import io
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.codes import Code, ConfigurationError, PairError, Status
from tasks.index import MAX_ATTEMPTS, EmptyArchive, IndexedPair, index_folders, index_table, plan, split_suffix
from tasks.manifest import MANIFEST_SCHEMA, manifest_rows
from tasks.storage import DANGLING, StorageError, absolute, join, stat_file, write_atomic


@pytest.fixture(params=["path", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "path":
        yield str(tmp_path)
    else:
        uri = f"memory://{uuid.uuid4().hex}"
        yield uri
        if fsspec.filesystem("memory").exists(uri):
            fsspec.filesystem("memory").rm(uri, recursive=True)


def make(root: str, *names: str) -> None:
    for name in names:
        write_atomic(join(root, name), name.encode())


def folders(root: str) -> list[IndexedPair]:
    return list(index_folders(join(root, "ir"), join(root, "vi")))


# Two folders


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


def test_a_side_without_images(root: str) -> None:
    make(root, "ir/a.png", "vi/a.dcm", "vi/b.dcm")
    with pytest.raises(EmptyArchive, match=r"^no images below .*/vi \(2 files, none ending in \.bmp .*\.webp\)$"):
        index_folders(join(root, "ir"), join(root, "vi"))
    if not root.startswith("memory"):
        (Path(root) / "empty").mkdir()
        with pytest.raises(EmptyArchive, match=r"^no images below .*/empty$"):
            index_folders(join(root, "empty"), join(root, "ir"))
    with pytest.raises(StorageError, match="does not exist"):
        index_folders(join(root, "ir"), join(root, "none"))


def test_key_of_an_image_and_of_another_file(root: str) -> None:
    make(root, "ir/notes.txt.png", "ir/notes.txt", "ir/notes.txt~", "ir/z.png", "vi/notes.txt.png", "vi/z.png")
    assert [(pair.pair_key, pair.code) for pair in folders(root)] == [
        ("notes.txt", None),
        ("notes.txt~", Code.NOT_IMAGE),
        ("z", None),
        ("notes.txt~~", Code.NOT_IMAGE),
    ]


def test_names_that_no_table_can_hold(tmp_path: Path) -> None:
    make(str(tmp_path), "ir/a.png", "vi/a.png")
    for side in ("ir", "vi"):
        Path(os.fsdecode(os.fsencode(tmp_path / side) + b"/caf\xe9.png")).write_bytes(b"x")
    good, bad = folders(str(tmp_path))
    assert good.code is None
    assert (bad.pair_key, bad.code) == ("unusable-caf%E9.png", Code.NAME_UNUSABLE)
    assert bad.first_uri == f"{tmp_path}/ir/unusable-caf%E9.png"
    assert len(plan([good, bad], None, "h", 8, 64).manifest) == 2


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


# A table


def write_table(root: str, text: str, name: str = "tables/pairs.csv") -> str:
    uri = join(root, name)
    write_atomic(uri, text.encode())
    return uri


def test_table_with_relative_paths_urls_and_keys(root: str) -> None:
    make(root, "ir/a.png", "vi/a.png", "tables/x/0002.png")
    absolute_uri = absolute(join(root, "ir/a.png"))
    uri = write_table(
        root,
        "note,key,first,second\n"
        f"1,0001,../ir/a.png,../vi/a.png\n"
        f"2,deep/é,{absolute_uri},x/0002.png\n"
        '3,,./x/0002.png,"../vi/a.png"\n',
    )
    pairs = list(index_table(uri))
    assert [pair.pair_key for pair in pairs] == ["0001", "deep/é", "x/0002"]
    assert all(pair.code is None for pair in pairs)
    file = stat_file(join(root, "ir/a.png"))
    assert (pairs[0].first_uri, pairs[0].first_fingerprint, pairs[0].first_size) == (file.uri, file.fingerprint, 8)
    assert pairs[1].first_uri == absolute_uri
    assert pairs[1].second_uri == absolute(join(root, "tables/x/0002.png"))


def test_keys_without_a_key_column(root: str) -> None:
    make(root, "ir/a.png", "ir/sub/a.png")
    base = absolute(root)
    uri = write_table(root, f"first,second\n../ir/a.png,../ir/a.png\n{base}/ir/sub/a.png,../ir/a.png\n", "t/pairs.csv")
    whole = f"{base}/ir/sub/a".partition("://")[2] or f"{base}/ir/sub/a"
    assert sorted(pair.pair_key for pair in index_table(uri)) == sorted(["ir/a", whole.lstrip("/")])


def test_bad_rows_of_a_table(root: str) -> None:
    make(root, "a.png", "b.png", "NA")
    lines = [
        "key,first,second",
        "double,a.png,b.png",
        "double,b.png,a.png",
        "empty,a.png,",
        ",,b.png",
        "gone,a.png,none.png",
        "folder,.,b.png",
        "../up,a.png,b.png",
        "/root,a.png,b.png",
        "NA,NA,b.png",
    ]
    rows = {pair.pair_key: pair for pair in index_table(write_table(root, "\n".join(lines), "pairs.csv"))}
    assert {key: (row.code, row.detail) for key, row in rows.items()} == {
        "NA": (None, ""),
        "double": (Code.AMBIGUOUS_PAIR, "rows 1, 2 of the table have this key"),
        "empty": (Code.MISSING_SOURCE, "row 3 of the table has no second"),
        "folder": (Code.MISSING_SOURCE, "row 6 of the table, first: IsADirectoryError"),
        "gone": (Code.MISSING_SOURCE, "row 5 of the table, second: FileNotFoundError"),
        "row-4": (Code.MISSING_SOURCE, "row 4 of the table has no first"),
        "unusable-%2Froot": (Code.NAME_UNUSABLE, "row 8 of the table"),
        "unusable-..%2Fup": (Code.NAME_UNUSABLE, "row 7 of the table"),
    }
    assert rows["gone"].first_fingerprint == stat_file(join(root, "a.png")).fingerprint
    assert rows["gone"].second_uri == absolute(join(root, "none.png"))
    assert rows["row-4"].first_uri is None
    assert len(plan(rows.values(), None, "h", 4, 8).manifest) == len(rows)


def test_parquet_table(root: str) -> None:
    make(root, "a.png", "b.png")
    sink = io.BytesIO()
    pq.write_table(pa.table({"first": ["a.png"], "second": ["b.png"], "key": [7]}), sink)
    write_atomic(join(root, "pairs.parquet"), sink.getvalue())
    (pair,) = index_table(join(root, "pairs.parquet"))
    assert (pair.pair_key, pair.code) == ("7", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"first;second\na;b\n", r"pairs\.csv needs one column first and one second; it has first;second"),
        (b"first,key\na,b\n", r"needs one column second; it has first, key"),
        (b"first,second,first\na,b,c\n", r"needs one column first; it has first, second, first"),
        (b"first,second\na,b,c\n", "neither a CSV nor a Parquet table.*Expected 2 columns, got 3"),
        (b"first,second\n\xe9,b\n", "neither a CSV nor a Parquet table"),
        (b"PAR1 and nothing else", "neither a CSV nor a Parquet table"),
        (b"", "neither a CSV nor a Parquet table"),
        (b"first,second\n", "no pairs in"),
    ],
)
def test_tables_that_are_none(root: str, content: bytes, message: str) -> None:
    write_atomic(join(root, "pairs.csv"), content)
    with pytest.raises(ConfigurationError, match=message):
        index_table(join(root, "pairs.csv"))


def test_a_table_with_a_byte_order_mark_and_windows_lines(root: str) -> None:
    make(root, "a.png", "b.png")
    write_atomic(join(root, "pairs.csv"), b"\xef\xbb\xbffirst,second\r\na.png,b.png\r\n")
    (pair,) = index_table(join(root, "pairs.csv"))
    assert (pair.pair_key, pair.code) == ("a", None)


def test_a_missing_table(root: str) -> None:
    with pytest.raises(StorageError, match=r"none\.csv: does not exist"):
        index_table(join(root, "none.csv"))


# The plan


def pair(key: str, version: int = 1, code: Code | None = None) -> IndexedPair:
    return IndexedPair(key, f"/ir/{key}", f"/vi/{key}", f"1-{version}", "1-0", 1, 1, code, "why" if code else "")


def lone(key: str) -> IndexedPair:
    return IndexedPair(key, None, f"/vi/{key}", None, "1-0", None, 1, Code.NO_PARTNER, "the first side has none")


def rows_of(
    pairs: Sequence[IndexedPair], code: Code | None = None, attempt: int = 1, config_hash: str = "h"
) -> pa.Table:
    codes = [code or item.code for item in pairs]
    return pa.table({
        "pair_key": pa.array([item.pair_key for item in pairs], pa.string()),
        "status": pa.array([each.status if each else Status.OK for each in codes], pa.string()),
        "code": pa.array(codes, pa.string()),
        "first_fingerprint": pa.array([item.first_fingerprint for item in pairs], pa.string()),
        "second_fingerprint": pa.array([item.second_fingerprint for item in pairs], pa.string()),
        "config_hash": pa.array([config_hash] * len(pairs), pa.string()),
        "attempt": pa.array([attempt] * len(pairs), pa.int32()),
    })  # fmt: skip


def attempts(pairs: Sequence[IndexedPair], done: pa.Table | None, **options: bool) -> dict[str, int]:
    planned = plan(pairs, done, "h", 4, 8, **options)
    assert planned.found == len(pairs)
    assert planned.settled == len(pairs) - len(planned.manifest)
    return {row.pair_key: row.attempt for row in manifest_rows(planned.manifest)}


def test_a_first_plan_has_every_row(root: str) -> None:
    make(root, "ir/a.png", "ir/b.png", "ir/x.txt", "vi/a.png")
    planned = plan(folders(root), None, "h", 16, 2048)
    assert planned.manifest.schema.equals(MANIFEST_SCHEMA, check_metadata=True)
    assert (planned.found, planned.settled, planned.given_up, planned.to_fuse) == (3, 0, 0, 1)
    pair_row, lone_row, other = manifest_rows(planned.manifest)
    assert (pair_row.pair_key, pair_row.code, pair_row.message, pair_row.attempt) == ("a", None, "", 1)
    assert (pair_row.first_uri, pair_row.first_size) == (absolute(join(root, "ir/a.png")), 8)
    assert lone_row.message == str(PairError(Code.NO_PARTNER, "the second side has none"))
    assert (other.pair_key, other.code) == ("x.txt", Code.NOT_IMAGE)


def test_an_unchanged_archive_plans_nothing() -> None:
    pairs = [pair("a"), pair("b", code=Code.NOT_IMAGE), pair("c", code=Code.AMBIGUOUS_PAIR), lone("d")]
    planned = plan(pairs, rows_of(pairs), "h", 4, 8)
    assert (len(planned.manifest), planned.found, planned.settled, planned.given_up) == (0, 4, 4, 0)
    assert planned.fuse_shards == planned.code_shards == ()
    assert planned.manifest.schema.equals(MANIFEST_SCHEMA, check_metadata=True)
    assert attempts([], None) == {}
    assert attempts(pairs, rows_of([])) == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_changed_sources_and_settings_are_planned() -> None:
    pairs = [pair("a"), pair("b"), pair("c", code=Code.NOT_IMAGE)]
    done = rows_of(pairs)
    assert attempts([pair("a", 2), pair("b"), pair("c", code=Code.NOT_IMAGE)], done) == {"a": 1}
    assert attempts([replace(pairs[0], second_fingerprint="1-9")], done) == {"a": 1}
    # What an index says of a name holds under any settings.
    assert attempts(pairs, rows_of(pairs, config_hash="other")) == {"a": 1, "b": 1}
    assert attempts([pair("c", 2, Code.NOT_IMAGE)], done) == {"c": 1}
    assert attempts([replace(pairs[0], first_uri="/moved/a")], done) == {}


def test_a_pair_that_became_one_is_planned_although_its_files_are_unchanged() -> None:
    for code in (Code.AMBIGUOUS_PAIR, Code.NO_PARTNER, Code.MISSING_SOURCE, Code.NAME_UNUSABLE, Code.NOT_IMAGE):
        assert attempts([pair("a")], rows_of([pair("a", code=code)])) == {"a": 1}
    assert attempts([pair("a", code=Code.AMBIGUOUS_PAIR)], rows_of([pair("a")])) == {"a": 1}
    assert attempts([pair("a", code=Code.AMBIGUOUS_PAIR)], rows_of([pair("a", code=Code.NO_PARTNER)])) == {"a": 1}


def test_rejected_pairs_wait_for_a_change_or_a_request() -> None:
    pairs = [pair("a"), lone("b")]
    done = pa.concat_tables([rows_of([pairs[0]], Code.TRUNCATED), rows_of([pairs[1]])])
    assert attempts(pairs, done) == {}
    assert attempts(pairs, done, retry_rejected=True) == {"a": 1}
    assert attempts([pair("a", 2)], done) == {"a": 1}


def test_failed_pairs_are_tried_three_times() -> None:
    for attempt in range(1, MAX_ATTEMPTS):
        assert attempts([pair("a")], rows_of([pair("a")], Code.READ_FAILED, attempt)) == {"a": attempt + 1}
    done = rows_of([pair("a")], Code.READ_FAILED, MAX_ATTEMPTS)
    planned = plan([pair("a"), pair("b")], done, "h", 4, 8)
    assert (planned.given_up, planned.settled, planned.to_fuse) == (1, 1, 1)
    # Other bytes or other settings begin anew.
    assert attempts([pair("a", 2)], done) == {"a": 1}
    assert attempts([pair("a")], rows_of([pair("a")], Code.READ_FAILED, MAX_ATTEMPTS, "other")) == {"a": 1}
    refused = pair("a", code=Code.PERMISSION_DENIED)
    assert attempts([refused], rows_of([refused], attempt=2)) == {"a": 3}
    assert attempts([refused], rows_of([refused], attempt=3)) == {}


def test_shards_and_chunks() -> None:
    pairs = [pair(f"{n:02d}", code=Code.NOT_IMAGE if n % 3 == 0 else None) for n in range(30)]
    planned = plan(pairs, None, "h", 3, 8)
    rows = list(manifest_rows(planned.manifest))
    assert [(row.shard_id, row.chunk_id, row.pair_key) for row in rows] == sorted(
        (row.shard_id, row.chunk_id, row.pair_key) for row in rows
    )
    sizes: dict[tuple[str, str], int] = {}
    for row in rows:
        sizes[row.shard_id, row.chunk_id] = sizes.get((row.shard_id, row.chunk_id), 0) + 1
    # 20 pairs in shards of 8 and chunks of 3, then 10 rows without work.
    assert sizes == {
        ("0000", "0000"): 3, ("0000", "0001"): 3, ("0000", "0002"): 2,
        ("0001", "0000"): 3, ("0001", "0001"): 3, ("0001", "0002"): 2,
        ("0002", "0000"): 3, ("0002", "0001"): 1,
        ("0003", "0000"): 8, ("0004", "0000"): 2,
    }  # fmt: skip
    assert (planned.fuse_shards, planned.code_shards) == (("0000", "0001", "0002"), ("0003", "0004"))
    assert all((row.code is None) == (row.shard_id in planned.fuse_shards) for row in rows)
    assert planned.manifest.equals(plan(iter(pairs), None, "h", 3, 8).manifest)


def test_shard_ids_sort_beyond_four_digits() -> None:
    planned = plan((pair(f"{n:05d}") for n in range(10001)), None, "h", 1, 1)
    ids = planned.manifest["shard_id"].to_pylist()
    assert ids == sorted(ids)
    assert (ids[0], ids[-1]) == ("00000", "10000")


def test_keys_must_be_unique() -> None:
    with pytest.raises(ValueError, match="pairs: keys must be unique, but a is not"):
        plan([pair("a"), pair("a", 2)], None, "h", 4, 8)
    with pytest.raises(ValueError, match="done: keys must be unique, but a is not"):
        plan([pair("a")], rows_of([pair("a"), pair("a")]), "h", 4, 8)


def test_a_large_plan_takes_seconds() -> None:
    pairs = [pair(f"{n:06d}") for n in range(100_000)]
    done = rows_of(pairs[:50_000])
    began = time.process_time()
    planned = plan(pairs, done, "h", 16, 2048)
    assert time.process_time() - began < 3
    assert (planned.to_fuse, planned.settled) == (50_000, 50_000)
    assert planned.manifest["pair_key"][0].as_py() == "050000"
