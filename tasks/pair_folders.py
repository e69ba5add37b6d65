"""Pair the images of two folders by their names, however many they are.

Both listings stream to scratch, are sorted there out of core, and are paired as they come back in order. Names that
make a plain pair are handled a table at a time; only the others are looked at one by one.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import Code, PairError
from tasks.index import (
    SIDES,
    UNUSABLE_PREFIX,
    EmptyArchive,
    Fingerprint,
    Index,
    IndexedPair,
    Source,
    content_fingerprint,
    index_table_of,
    is_usable,
    made_usable,
    make_row,
    split_suffix,
    together,
)
from tasks.read.raster import RASTER_SUFFIXES
from tasks.schemas import INDEX_SCHEMA
from tasks.scratch import open_database, view_tables
from tasks.storage import DANGLING, StoredFile, absolute, list_files
from tasks.tables import ROWS, TableWriter

_IMAGE, _OTHER, _UNUSABLE = range(3)
_READERS: Final = 16
"""Files hashed at a time, with fingerprints by content."""

_FILE_SCHEMA: Final = pa.schema([
    pa.field("key", pa.string(), nullable=False),
    pa.field("kind", pa.int8(), nullable=False),
    pa.field("side", pa.int8(), nullable=False),
    pa.field("suffix", pa.string(), nullable=False),
    pa.field("fingerprint", pa.string(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("modified", pa.float64(), nullable=False),
    pa.field("code", pa.string()),
    pa.field("detail", pa.string()),
])  # fmt: skip
"""A listed file. A name that no table can hold has its quoted form for a key."""


def index_folders(first_root: str, second_root: str, scratch: Path, fingerprint: Fingerprint = "stat") -> Index:
    """Pair the images of two folders by their paths without suffix: sub/a.png with sub/a.jpg, but not with sub/A.jpg.

    Codes: NO_PARTNER, AMBIGUOUS_PAIR (a.png beside a.jpg on one side), NOT_IMAGE (by suffix; one row where both
    sides have such a file), MISSING_SOURCE (a link to nothing), NAME_UNUSABLE (not UTF-8); with fingerprints by
    content also PERMISSION_DENIED and READ_FAILED.

    Raises:
        EmptyArchive: a side has no image at all.
        StorageError: a folder cannot be read.
    """
    roots = (first_root, second_root)
    listings = (scratch / "files-first.parquet", scratch / "files-second.parquet")
    with ThreadPoolExecutor(2) as pool:
        listed_bytes = sum(pool.map(_list_side, roots, range(2), listings, [fingerprint] * 2))
    paired, postponed, path = (scratch / f"{name}.parquet" for name in ("paired", "postponed", "index"))
    with open_database(scratch, listed_bytes) as database:
        view_tables(database, "files", *listings)
        in_order = database.sql("SELECT * FROM files ORDER BY key, kind, side, suffix, fingerprint")
        with TableWriter(paired, INDEX_SCHEMA) as rows, TableWriter(postponed, INDEX_SCHEMA) as later:
            bases = (absolute(first_root), absolute(second_root))
            for block in _whole_groups(pa.Table.from_batches([batch]) for batch in in_order.to_arrow_reader(ROWS)):
                now, made = _pair_block(block, bases)
                rows.write(now)
                later.write(made)
        if not later.rows:
            paired.rename(path)
            return Index(path, rows.rows)
        made_up = scratch / "made-up.parquet"
        _make_keys(database, postponed, made_up)
        return Index(path, _merge(database, (paired, made_up), path))


def _list_side(root: str, side: int, path: Path, fingerprint: Fingerprint) -> int:
    """Write the files of a folder; returns how many bytes they take in memory."""
    images = others = 0
    files = iter(list_files(root))
    with TableWriter(path, _FILE_SCHEMA) as writer, ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(files, ROWS)):
            columns = _file_columns(batch, side)
            found = columns["kind"].count(_IMAGE)
            images += found
            others += len(batch) - found
            if fingerprint == "content":
                _hash_contents(batch, columns, pool)
            writer.write(pa.table(columns, schema=_FILE_SCHEMA))
    if not images:
        suffixes = " ".join(sorted(RASTER_SUFFIXES))
        raise EmptyArchive(f"no images below {root}" + (f" ({others} files, none ending in {suffixes})" * bool(others)))
    return writer.bytes


def _file_columns(batch: Sequence[StoredFile], side: int) -> dict[str, list[Any]]:
    keys: list[str] = []
    kinds: list[int] = []
    suffixes: list[str] = []
    for file in batch:
        stem, suffix = split_suffix(file.relative)
        if not is_usable(file.relative):
            stem, suffix, kind = made_usable(file.relative), "", _UNUSABLE
        elif suffix.lower() in RASTER_SUFFIXES:
            kind = _IMAGE
        else:
            stem, suffix, kind = file.relative, "", _OTHER
        keys.append(stem)
        kinds.append(kind)
        suffixes.append(suffix)
    dangling = [file.fingerprint == DANGLING for file in batch]
    return {
        "key": keys,
        "kind": kinds,
        "side": [side] * len(batch),
        "suffix": suffixes,
        "fingerprint": [file.fingerprint for file in batch],
        "size": [file.size for file in batch],
        "modified": [file.modified for file in batch],
        "code": [Code.MISSING_SOURCE if gone else None for gone in dangling],
        "detail": ["is a link to nothing" if gone else None for gone in dangling],
    }


def _hash_contents(batch: Sequence[StoredFile], columns: dict[str, list[Any]], pool: Executor) -> None:
    places = [n for n, kind in enumerate(columns["kind"]) if kind == _IMAGE and columns["code"][n] is None]

    def outcome(place: int) -> str | PairError:
        try:
            return content_fingerprint(batch[place])
        except PairError as error:
            return error

    for place, found in zip(places, pool.map(outcome, places), strict=True):
        if isinstance(found, PairError):
            columns["code"][place] = found.code
            columns["detail"][place] = f"could not be read: {found.detail}"
        else:
            columns["fingerprint"][place] = found


def _whole_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables cut anew, so that files of one key are never in two of them."""
    rest = _FILE_SCHEMA.empty_table()
    for table in tables:
        whole = pa.concat_tables([rest, table.cast(_FILE_SCHEMA)]).combine_chunks()
        key = whole["key"][-1].as_py()
        if whole["key"][0].as_py() == key:
            rest = whole
            continue
        start = pc.index(whole["key"], key).as_py()
        yield whole.slice(0, start)
        rest = whole.slice(start)
    if len(rest):
        yield rest


def _pair_block(block: pa.Table, bases: tuple[str, str]) -> tuple[pa.Table, pa.Table]:
    """The rows of sorted files, and those that still need a key."""
    keys = block["key"].combine_chunks()
    starts = np.flatnonzero(np.append(True, pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)))
    sizes = np.diff(np.append(starts, len(block)))
    kind, side = block["kind"].to_numpy(), block["side"].to_numpy()
    faulty = pc.is_valid(block["code"]).to_numpy()
    second = np.minimum(starts + 1, len(block) - 1)
    plain = (sizes == 2) & (kind[starts] == _IMAGE) & (kind[second] == _IMAGE) & ~faulty[starts] & ~faulty[second]
    plain &= (side[starts] == 0) & (side[second] == 1)
    now = _plain_pairs(block.take(starts[plain]), block.take(starts[plain] + 1), bases)
    if plain.all():
        return now, INDEX_SCHEMA.empty_table()
    others = block.filter(pa.array(~np.repeat(plain, sizes))).to_pylist()
    rows: list[IndexedPair] = []
    later: list[IndexedPair] = []
    for key, members in groupby(others, key=lambda file: str(file["key"])):
        _pair_group(key, list(members), bases, rows, later)
    whole = pa.concat_tables([now, index_table_of(rows)])
    return whole.take(pc.sort_indices(whole["pair_key"])), index_table_of(later)


def _plain_pairs(first: pa.Table, second: pa.Table, bases: tuple[str, str]) -> pa.Table:
    def uris(files: pa.Table, base: str) -> pa.ChunkedArray:
        return pc.binary_join_element_wise(f"{base}/", files["key"], files["suffix"], "")

    return pa.table(
        [
            first["key"], uris(first, bases[0]), uris(second, bases[1]), first["fingerprint"], second["fingerprint"],
            first["size"], second["size"], pa.nulls(len(first), pa.string()), pa.array([""] * len(first), pa.string()),
            pc.max_element_wise(first["modified"], second["modified"]),
        ],
        schema=INDEX_SCHEMA,
    )  # fmt: skip


_Files = list[dict[str, Any]]


def _pair_group(
    key: str, files: _Files, bases: tuple[str, str], rows: list[IndexedPair], later: list[IndexedPair]
) -> None:
    """The rows of all files of one key."""
    kinds: dict[int, tuple[_Files, _Files]] = {}
    for file in files:
        kinds.setdefault(file["kind"], ([], []))[file["side"]].append(file)
    for kind, group in kinds.items():
        sources = _sources(group, bases)
        if kind == _IMAGE:
            rows.append(_image_row(key, group, sources))
        elif kind == _UNUSABLE:
            detail = "its name is not UTF-8, or has an empty part between slashes"
            later.append(make_row(key, sources, Code.NAME_UNUSABLE, detail))
        else:
            # Beside an image notes.txt.png, which has the key, a file notes.txt needs another.
            (later if _IMAGE in kinds else rows).append(make_row(key, sources, Code.NOT_IMAGE))


def _image_row(key: str, group: tuple[_Files, _Files], sources: Sequence[Source]) -> IndexedPair:
    ties = [
        f"{side}: {', '.join(posixpath.basename(key) + file['suffix'] for file in files)}"
        for side, files in zip(SIDES, group, strict=True)
        if len(files) > 1
    ]
    if ties:
        return make_row(key, sources, Code.AMBIGUOUS_PAIR, "; ".join(ties))
    for side, files in zip(SIDES, group, strict=True):
        if not files:
            return make_row(key, sources, Code.NO_PARTNER, f"the {side} side has none")
    for side, files in zip(SIDES, group, strict=True):
        if files[0]["code"]:
            return make_row(key, sources, Code(files[0]["code"]), f"the {side} source {files[0]['detail']}")
    return make_row(key, sources)


def _sources(group: tuple[_Files, _Files], bases: tuple[str, str]) -> list[Source]:
    sources = []
    for files, base in zip(group, bases, strict=True):
        if not files:
            sources.append(Source())
            continue
        fingerprint = files[0]["fingerprint"]
        if len(files) > 1:
            content = "\0".join(f"{file['suffix']}\0{file['fingerprint']}" for file in files)
            fingerprint = together(len(files), content)
        uri = f"{base}/{files[0]['key']}{files[0]['suffix']}"
        sources.append(Source(uri, fingerprint, files[0]["size"], max(file["modified"] for file in files)))
    return sources


# Keys that have to be made up


def _make_keys(database: duckdb.DuckDBPyConnection, postponed: Path, path: Path) -> None:
    """Give each postponed row the first key that is free: its own, then with "~", "~~" and so on behind it.

    Keys that differ in such an ending only are looked at together, so that memory holds few of them.
    """
    view_tables(database, "postponed", postponed)
    in_order = database.sql(
        f"""
        WITH wanted AS (SELECT *, rtrim(pair_key, '~') AS stem FROM postponed),
        taken AS (
            SELECT DISTINCT key, rtrim(key, '~') AS stem FROM files
            WHERE kind <> {_UNUSABLE} AND rtrim(key, '~') IN (SELECT stem FROM wanted)
        )
        SELECT stem, key AS taken, NULL AS row FROM taken
        UNION ALL SELECT stem, NULL, struct_pack({", ".join(INDEX_SCHEMA.names)}) FROM wanted
        ORDER BY stem
        """  # noqa: S608
    )
    with TableWriter(path, INDEX_SCHEMA) as writer:
        entries = (entry for batch in in_order.to_arrow_reader(ROWS) for entry in batch.to_pylist())
        for _, members in groupby(entries, key=lambda entry: str(entry["stem"])):
            taken: set[str] = set()
            rows: list[dict[str, Any]] = []
            for member in members:
                if member["row"] is None:
                    taken.add(member["taken"])
                else:
                    rows.append(member["row"])
            for row in sorted(rows, key=_raw_name):
                while row["pair_key"] in taken:
                    row["pair_key"] += "~"
                taken.add(row["pair_key"])
            writer.write(pa.Table.from_pylist(rows, INDEX_SCHEMA))


def _raw_name(row: dict[str, Any]) -> str:
    name = str(row["pair_key"])
    if row["code"] != Code.NAME_UNUSABLE:
        return name
    return unquote(name.removeprefix(UNUSABLE_PREFIX), errors="surrogateescape")


def _merge(database: duckdb.DuckDBPyConnection, parts: Sequence[Path], path: Path) -> int:
    view_tables(database, "parts", *parts)
    in_order = database.sql("SELECT * FROM parts ORDER BY pair_key")
    with TableWriter(path, INDEX_SCHEMA) as writer:
        for batch in in_order.to_arrow_reader(ROWS):
            writer.write(pa.Table.from_batches([batch]).cast(INDEX_SCHEMA))
    return writer.rows
