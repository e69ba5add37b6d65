from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ordered import aligned, ascending, newest
from tasks.schemas import VANISHED_SCHEMA
from tasks.storage import StorageError
from tasks.tables import ROWS, TableWriter, table_batches, table_metadata


def table(*keys: str, run: str = "r") -> pa.Table:
    rows = [{"pair_key": key, "run_id": run, "output_uri": None} for key in keys]
    return pa.Table.from_pylist(rows, VANISHED_SCHEMA)


def keys_of(tables: list[pa.Table | None]) -> list[list[str]]:
    return [[] if one is None else one["pair_key"].to_pylist() for one in tables]


def test_pieces_of_any_size_make_full_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    keys = [f"{n:06d}" for n in range(3 * ROWS + 5)]
    whole = table(*keys)
    with TableWriter(path, VANISHED_SCHEMA, {"made_by": "a test"}) as writer:
        start = 0
        for size in (1, 0, ROWS, 10, 2 * ROWS + 3):
            writer.write(whole.slice(start, size))
            start += size
        writer.write(whole.slice(start))
    assert writer.rows == len(keys)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [ROWS, ROWS, ROWS, 5]
    read = list(table_batches(path, VANISHED_SCHEMA, ["pair_key"]))
    assert [one.column_names for one in read] == [["pair_key"]] * 4
    assert pa.concat_tables(read)["pair_key"].to_pylist() == keys
    assert table_metadata(path, VANISHED_SCHEMA, "x")[b"made_by"] == b"a test"


def test_an_empty_table(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "x.parquet", VANISHED_SCHEMA):
        pass
    assert list(table_batches(tmp_path / "x.parquet", VANISHED_SCHEMA)) == []


def test_streams_side_by_side() -> None:
    steps = list(aligned([
        [table("a", "c"), table("d"), table()],
        [table("b"), table("c", "e", "g")],
        [],
    ]))  # fmt: skip
    assert [keys_of(list(step)) for step in steps] == [
        [["a"], ["b"], []],
        [["c"], ["c"], []],
        [["d"], [], []],
        [[], ["e", "g"], []],
    ]


def test_the_last_stream_wins() -> None:
    old, new = [table("a", "b", "d", run="1")], [table("b", run="2"), table("c", "d", run="2")]
    rows = [(row["pair_key"], row["run_id"]) for one in newest([old, new]) for row in one.to_pylist()]
    assert rows == [("a", "1"), ("b", "2"), ("c", "2"), ("d", "2")]


@pytest.mark.parametrize(
    ("tables", "wrong"),
    [([["a", "a"]], "a"), ([["b", "a"]], "a"), ([["a", "b"], ["b"]], "b"), ([["a", "c"], [], ["d", "b"]], "b")],
)
def test_keys_that_do_not_ascend(tables: list[list[str]], wrong: str) -> None:
    with pytest.raises(StorageError, match=f"^here: its keys must be unique and in order, but {wrong} is not"):
        list(ascending([table(*keys) for keys in tables], "here"))
