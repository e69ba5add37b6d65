from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from tasks.codes import Code, PairError, Status
from tasks.index import IndexedPair
from tasks.manifest import manifest_rows
from tasks.plan import EVERYTHING, MAX_ATTEMPTS, PlanCounts, Selection
from tasks.schemas import MANIFEST_SCHEMA
from tasks.storage import StorageError
from tests.runs import Planned, plan_pairs


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
        "run_id": pa.array(["run"] * len(pairs), pa.string()),
        "status": pa.array([each.status if each else Status.OK for each in codes], pa.string()),
        "code": pa.array(codes, pa.string()),
        "first_fingerprint": pa.array([item.first_fingerprint for item in pairs], pa.string()),
        "second_fingerprint": pa.array([item.second_fingerprint for item in pairs], pa.string()),
        "config_hash": pa.array([config_hash] * len(pairs), pa.string()),
        "attempt": pa.array([attempt] * len(pairs), pa.int32()),
        "output_uri": pa.array([None if code else f"/out/{item.pair_key}.png" for item in pairs], pa.string()),
    })  # fmt: skip


def attempts(pairs: Sequence[IndexedPair], done: pa.Table | None, selection: Selection = EVERYTHING) -> dict[str, int]:
    planned = plan_pairs(pairs, done, "h", 4, 8, selection)
    assert planned.counts.found == len(pairs)
    assert planned.counts.settled == len(pairs) - len(planned.manifest)
    return {row.pair_key: row.attempt for row in manifest_rows(planned.manifest)}


def test_a_first_plan_has_every_row() -> None:
    found = [pair("a"), lone("b"), pair("x.txt", code=Code.NOT_IMAGE)]
    planned = plan_pairs(found, None, "h", 16, 2048)
    assert planned.manifest.schema.equals(MANIFEST_SCHEMA, check_metadata=True)
    assert (planned.counts.found, planned.counts.settled, planned.counts.given_up, planned.to_fuse) == (3, 0, 0, 1)
    pair_row, lone_row, other = manifest_rows(planned.manifest)
    assert (pair_row.pair_key, pair_row.code, pair_row.message, pair_row.attempt) == ("a", None, "", 1)
    assert (pair_row.first_uri, pair_row.first_size) == ("/ir/a", 1)
    assert lone_row.message == str(PairError(Code.NO_PARTNER, "the first side has none"))
    assert (other.pair_key, other.code) == ("x.txt", Code.NOT_IMAGE)


def test_an_unchanged_archive_plans_nothing() -> None:
    pairs = [pair("a"), pair("b", code=Code.NOT_IMAGE), pair("c", code=Code.AMBIGUOUS_PAIR), lone("d")]
    planned = plan_pairs(pairs, rows_of(pairs), "h", 4, 8)
    assert (len(planned.manifest), planned.counts.found, planned.counts.settled, planned.counts.given_up) == (
        0,
        4,
        4,
        0,
    )
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
    assert attempts(pairs, done, Selection(retry=frozenset({"rejected"}))) == {"a": 1}
    assert attempts([pair("a", 2)], done) == {"a": 1}


def test_failed_pairs_are_tried_three_times() -> None:
    for attempt in range(1, MAX_ATTEMPTS):
        assert attempts([pair("a")], rows_of([pair("a")], Code.READ_FAILED, attempt)) == {"a": attempt + 1}
    done = rows_of([pair("a")], Code.READ_FAILED, MAX_ATTEMPTS)
    planned = plan_pairs([pair("a"), pair("b")], done, "h", 4, 8)
    assert (planned.counts.given_up, planned.counts.settled, planned.to_fuse) == (1, 1, 1)
    # Other bytes or other settings begin anew.
    assert attempts([pair("a", 2)], done) == {"a": 1}
    assert attempts([pair("a")], rows_of([pair("a")], Code.READ_FAILED, MAX_ATTEMPTS, "other")) == {"a": 1}
    refused = pair("a", code=Code.PERMISSION_DENIED)
    assert attempts([refused], rows_of([refused], attempt=2)) == {"a": 3}
    assert attempts([refused], rows_of([refused], attempt=3)) == {}


def test_shards_and_chunks() -> None:
    pairs = [pair(f"{n:02d}", code=Code.NOT_IMAGE if n % 3 == 0 else None) for n in range(30)]
    planned = plan_pairs(pairs, None, "h", 3, 8)
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
    assert planned.manifest.equals(plan_pairs(pairs, None, "h", 3, 8).manifest)


def test_shard_ids_sort_beyond_four_digits() -> None:
    planned = plan_pairs([pair(f"{n:05d}") for n in range(10001)], None, "h", 1, 1)
    ids = planned.manifest["shard_id"].to_pylist()
    assert ids == sorted(ids)
    assert (ids[0], ids[-1]) == ("00000", "10000")


def test_keys_must_be_unique() -> None:
    with pytest.raises(StorageError, match="index: its keys must be unique and in order, but a is not"):
        plan_pairs([pair("a"), pair("a", 2)], None, "h", 4, 8)
    with pytest.raises(StorageError, match="current rows: its keys must be unique and in order, but a is not"):
        plan_pairs([pair("a")], rows_of([pair("a"), pair("a")]), "h", 4, 8)


def test_a_large_plan_takes_seconds() -> None:
    pairs = [pair(f"{n:06d}") for n in range(100_000)]
    done = rows_of(pairs[:50_000])
    began = time.process_time()
    planned = plan_pairs(pairs, done, "h", 16, 2048)
    assert time.process_time() - began < 3
    assert (planned.to_fuse, planned.counts.settled) == (50_000, 50_000)
    assert planned.manifest["pair_key"][0].as_py() == "050000"


def counts(planned: Planned) -> dict[str, int]:
    return {name: count for name, count in planned.counts.as_dict().items() if count}


def test_what_a_plan_counts() -> None:
    before = [pair(key) for key in ("a-same", "b-changed", "d-failed", "e-given-up", "g-vanished")]
    done = pa.concat_tables([
        rows_of(before[:2]),
        rows_of([pair("c-outdated")], config_hash="old"),
        rows_of([before[2]], Code.READ_FAILED),
        rows_of([before[3]], Code.READ_FAILED, MAX_ATTEMPTS),
        rows_of([pair("f-pruned")], Code.VANISHED),
        rows_of([before[4]]),
        rows_of([pair("h-long-gone")], Code.VANISHED),
        rows_of([lone("i-became-one")]),
    ])  # fmt: skip
    now = [pair("a-same"), pair("b-changed", 2), pair("c-outdated"), pair("d-failed"), pair("e-given-up"),
           pair("f-pruned"), pair("i-became-one"), lone("j-lone"), pair("k-new")]  # fmt: skip
    planned = plan_pairs(now, done, "h", 4, 8)
    assert counts(planned) == {
        "found": 9, "new": 3, "changed": 1, "outdated": 1, "retried": 1, "settled": 2, "given_up": 1, "unpaired": 1,
        "vanished": 1,
    }  # fmt: skip
    assert planned.vanished == [{"pair_key": "g-vanished", "run_id": "run", "output_uri": "/out/g-vanished.png"}]
    assert attempts([pair("f-pruned")], done) == {"f-pruned": 1}


def test_what_vanished_is_found_wherever_it_stands() -> None:
    keys = [f"{n:05d}" for n in range(40_000)]
    done = rows_of([pair(key) for key in keys])
    planned = plan_pairs([pair(key) for key in keys if key not in ("00000", "16384", "39999")], done, "h", 16, 64)
    assert [row["pair_key"] for row in planned.vanished] == ["00000", "16384", "39999"]
    assert counts(planned) == {"found": 39_997, "settled": 39_997, "vanished": 3}
    planned = plan_pairs([], done, "h", 16, 64)
    assert len(planned.vanished) == 40_000


def test_failed_pairs_are_tried_again_beyond_the_third_time_on_request() -> None:
    done = rows_of([pair("a")], Code.READ_FAILED, MAX_ATTEMPTS)
    assert attempts([pair("a")], done) == {}
    assert attempts([pair("a")], done, Selection(retry=frozenset({"failed"}))) == {"a": MAX_ATTEMPTS + 1}
    assert attempts([pair("a")], rows_of([pair("a")], Code.TRUNCATED), Selection(retry=frozenset({"failed"}))) == {}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(only=("a/*",)), ["a/1", "a/sub/2", "a/x"]),
        (Selection(only=("*/2", "b/[!2]")), ["a/sub/2", "b/1", "b/2"]),
        (Selection(only=("A/*",)), []),
        (Selection(limit=2), ["a/1", "a/sub/2", "a/x"]),
        (Selection(limit=0), ["a/x"]),
        (Selection(limit=2, only=("b/*",)), ["b/1", "b/2"]),
        (Selection(since=datetime(2026, 1, 1, tzinfo=UTC)), ["b/1", "b/2"]),
    ],
)
def test_a_selection_leaves_out_and_settles_nothing(selection: Selection, expected: list[str]) -> None:
    old, late = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2025, 2026))
    found = [
        replace(pair("a/1"), modified=old),
        replace(pair("a/sub/2"), modified=old),
        replace(lone("a/x"), modified=old),
        replace(pair("b/1"), modified=late),
        replace(pair("b/2"), modified=late + 1),
    ]
    planned = plan_pairs(found, rows_of([pair("c/gone")]), "h", 4, 8, selection)
    assert sorted(planned.manifest["pair_key"].to_pylist()) == expected
    assert planned.counts.left_out == len(found) - len(expected)
    assert (planned.counts.settled, planned.counts.vanished) == (0, 1)


def test_a_limit_counts_what_needs_work() -> None:
    pairs = [pair(f"{n:02d}") for n in range(10)]
    assert list(attempts_of(pairs, rows_of(pairs[:4]), Selection(limit=3))) == ["04", "05", "06"]


def attempts_of(pairs: Sequence[IndexedPair], done: pa.Table, selection: Selection) -> list[str]:
    keys: list[str] = plan_pairs(pairs, done, "h", 4, 8, selection).manifest["pair_key"].to_pylist()
    return keys


def test_counts_in_one_sentence() -> None:
    counts = PlanCounts(found=9, new=2, settled=6, given_up=1, unpaired=1, vanished=3)
    assert counts.sentence() == "9 found: 2 new, 6 settled, 1 given up, 1 unpaired, 3 vanished"
    assert PlanCounts().sentence() == "0 found"
