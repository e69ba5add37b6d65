from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.codes import Code, ConfigurationError
from tasks.index import IndexedPair
from tasks.pair_table import index_table
from tasks.storage import StorageError, absolute, join, stat_file, write_atomic
from tests.runs import plan_pairs


def make(root: str, *names: str) -> None:
    for name in names:
        write_atomic(join(root, name), name.encode())


def pairs_of(uri: str) -> list[IndexedPair]:
    with tempfile.TemporaryDirectory() as scratch:
        index = index_table(uri, Path(scratch))
        pairs = list(index.pairs())
        assert index.rows == len(pairs)
        return pairs


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
    pairs = pairs_of(uri)
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
    assert sorted(pair.pair_key for pair in pairs_of(uri)) == sorted(["ir/a", whole.lstrip("/")])


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
    rows = {pair.pair_key: pair for pair in pairs_of(write_table(root, "\n".join(lines), "pairs.csv"))}
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
    assert len(plan_pairs(list(rows.values()), None, "h", 4, 8).manifest) == len(rows)


def test_parquet_table(root: str) -> None:
    make(root, "a.png", "b.png")
    sink = io.BytesIO()
    pq.write_table(pa.table({"first": ["a.png"], "second": ["b.png"], "key": [7]}), sink)
    write_atomic(join(root, "pairs.parquet"), sink.getvalue())
    (pair,) = pairs_of(join(root, "pairs.parquet"))
    assert (pair.pair_key, pair.code) == ("7", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"first;second\na;b\n", r"pairs\.csv needs one column first and one second; .* names 1 columns"),
        (b"first,key\na,b\n", r"needs one column second; check its first line"),
        (b"first,second,first\na,b,c\n", r"needs one column first; check its first line"),
        (b"first,second\na,b,c\n", "neither a CSV nor a Parquet table.*Expected 2 columns, got 3"),
        (b"first,second\n\xe9,b\n", "neither a CSV nor a Parquet table"),
        (b"PAR1 and nothing else", "neither a CSV nor a Parquet table"),
        (b"", "neither a CSV nor a Parquet table"),
        (b"first,second\n", "no pairs in"),
    ],
)
def test_tables_that_are_none(root: str, content: bytes, message: str) -> None:
    write_atomic(join(root, "pairs.csv"), content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        pairs_of(join(root, "pairs.csv"))
    # Cells name files, and files name persons.
    assert "a,b" not in str(caught.value)


def test_a_table_with_a_byte_order_mark_and_windows_lines(root: str) -> None:
    make(root, "a.png", "b.png")
    write_atomic(join(root, "pairs.csv"), b"\xef\xbb\xbffirst,second\r\na.png,b.png\r\n")
    (pair,) = pairs_of(join(root, "pairs.csv"))
    assert (pair.pair_key, pair.code) == ("a", None)


def test_a_missing_table(root: str) -> None:
    with pytest.raises(StorageError, match=r"none\.csv: does not exist"):
        pairs_of(join(root, "none.csv"))
