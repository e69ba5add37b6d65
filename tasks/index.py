"""Find the pairs of an archive, and plan which of them need work.

An index has a row for everything that was found: a pair to fuse, or something that cannot be one, with the code
that says why. A plan leaves out what earlier runs settled and deals the rest into shards and chunks.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.codes import Code, ConfigurationError, PairError, Status
from tasks.manifest import MANIFEST_SCHEMA, PLAN_COLUMNS, RESULT_SCHEMA, table_of
from tasks.read.raster import RASTER_SUFFIXES
from tasks.storage import DANGLING, absolute, list_files, read_needed, stat_file

MAX_ATTEMPTS: Final = 3
"""Runs that try a pair whose rows say ``failed``."""

_INDEX_CODES: Final = (
    Code.NOT_IMAGE, Code.NO_PARTNER, Code.AMBIGUOUS_PAIR, Code.MISSING_SOURCE, Code.NAME_UNUSABLE
)  # fmt: skip
"""Found by looking at names; such a row settles nothing about the pair that may stand there now."""

_BATCH: Final = 65536
"""Pairs handled at a time, so that memory holds the planned ones only."""
_UNUSABLE_PREFIX: Final = "unusable-"
_STATS: Final = 32
"""Files of a table looked up at a time; what counts is the latency of object stores."""


class EmptyArchive(ConfigurationError):  # noqa: N818 - what it is, rather than ...Error
    """There is nothing to fuse where the job says."""


@dataclass(frozen=True, slots=True)
class IndexedPair:
    """What an archive holds under one key.

    Attributes:
        pair_key: the pair's path below its folder without suffix, with "/" between its parts; unique, and safe to
            name a result by. What cannot be a pair has a key too, for files that are no images with their suffix.
        first_uri: None where that side has no file, like its fingerprint and its size in bytes.
        second_uri: likewise.
        first_fingerprint: changes when the file does, see :class:`~tasks.storage.StoredFile`; for an ambiguous
            side it covers all its files, while URI and size are those of the first one.
        code: why this is not a pair to fuse, None for one that is.
        detail: what was found; it may name files.
    """

    pair_key: str
    first_uri: str | None
    second_uri: str | None
    first_fingerprint: str | None
    second_fingerprint: str | None
    first_size: int | None
    second_size: int | None
    code: Code | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Source:
    """One side of a row."""

    uri: str | None = None
    fingerprint: str | None = None
    size: int | None = None


def _row(key: str, sources: Sequence[_Source], code: Code | None = None, detail: str = "") -> IndexedPair:
    first, second = sources
    return IndexedPair(
        key, first.uri, second.uri, first.fingerprint, second.fingerprint, first.size, second.size, code, detail
    )


# Two folders

_IMAGE, _OTHER, _UNUSABLE = "012"
_SIDES: Final = ("first", "second")


class _Record(NamedTuple):
    """A listed file. Kept as one string, a third of what objects take: a million pairs must fit into a gigabyte."""

    key: str
    kind: str
    side: str
    suffix: str
    fingerprint: str

    def pack(self) -> str:
        """The parts, joined by what no name contains."""
        return "\0".join(self)


_Group = tuple[list[_Record], list[_Record]]
"""Files of one key and kind, by side, in the order of their suffixes."""


def index_folders(first_root: str, second_root: str) -> Iterator[IndexedPair]:
    """Pair the images of two folders by their paths without suffix: sub/a.png with sub/a.jpg, but not with sub/A.jpg.

    Rows come by key, those whose key had to be made up last. Codes: NO_PARTNER, AMBIGUOUS_PAIR (a.png beside
    a.jpg on one side), NOT_IMAGE (by suffix; one row where both sides have such a file), MISSING_SOURCE (a link
    to nothing), NAME_UNUSABLE (not UTF-8).

    Raises:
        EmptyArchive: a side has no image at all.
        StorageError: a folder cannot be read.
    """
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(_list_side, (first_root, second_root), ("0", "1"))
    first.extend(second)
    first.sort()
    return _pair_records(first, (absolute(first_root), absolute(second_root)))


def _list_side(root: str, side: str) -> list[str]:
    records = []
    images = 0
    for file in list_files(root):
        stem, suffix = split_suffix(file.relative)
        if not _is_usable(file.relative):
            record = _Record(file.relative, _UNUSABLE, side, "", file.fingerprint)
        elif suffix.lower() in RASTER_SUFFIXES:
            record = _Record(stem, _IMAGE, side, suffix, file.fingerprint)
            images += 1
        else:
            record = _Record(file.relative, _OTHER, side, "", file.fingerprint)
        records.append(record.pack())
    if not images:
        others = f" ({len(records)} files, none ending in {' '.join(sorted(RASTER_SUFFIXES))})" if records else ""
        raise EmptyArchive(f"no images below {root}{others}")
    return records


def split_suffix(path: str) -> tuple[str, str]:
    """A path and its suffix as written: ``.nii.gz`` is one, else it is what follows the name's last dot."""
    if path.lower().endswith(".nii.gz"):
        return path[:-7], path[-7:]
    name = path.rpartition("/")[2]
    dot = name.rfind(".")
    return (path, "") if dot <= 0 else (path[: dot - len(name)], name[dot:])


def _is_usable(name: str) -> bool:
    """Whether a result can be named so, and a table keep the name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in name and {"", ".", ".."}.isdisjoint(name.split("/"))


def _made_usable(name: str) -> str:
    """Printable, without slashes, different for different names."""
    return _UNUSABLE_PREFIX + quote(name.encode(errors="surrogateescape"), safe="")


def _pair_records(records: Sequence[str], bases: tuple[str, str]) -> Iterator[IndexedPair]:
    postponed: list[tuple[str, _Group]] = []
    for key, members in groupby(records, key=lambda record: record.partition("\0")[0]):
        kinds: dict[str, _Group] = {}
        for record in (_Record(*packed.split("\0")) for packed in members):
            kinds.setdefault(record.kind, ([], []))[int(record.side)].append(record)
        for kind, group in kinds.items():
            if kind == _IMAGE:
                yield _image_row(key, group, bases)
            elif kind == _OTHER and _IMAGE not in kinds:
                yield _other_row(key, group, bases)
            elif kind == _OTHER:
                # A file notes.txt beside an image notes.txt.png, which has the key.
                postponed.append((key, group))
            else:
                postponed.append((_made_usable(key), group))
    taken = {record.partition("\0")[0] for record in records} if postponed else set()
    for wanted, group in postponed:
        key = wanted
        while key in taken:
            key += "~"
        taken.add(key)
        yield _other_row(key, group, bases)


def _image_row(key: str, group: _Group, bases: tuple[str, str]) -> IndexedPair:
    sources = _sources(group, bases)
    ties = [
        f"{side}: {', '.join(posixpath.basename(key) + file.suffix for file in files)}"
        for side, files in zip(_SIDES, group, strict=True)
        if len(files) > 1
    ]
    if ties:
        return _row(key, sources, Code.AMBIGUOUS_PAIR, "; ".join(ties))
    for side, source in zip(_SIDES, sources, strict=True):
        if source.uri is None:
            return _row(key, sources, Code.NO_PARTNER, f"the {side} side has none")
    for side, source in zip(_SIDES, sources, strict=True):
        if source.fingerprint == DANGLING:
            return _row(key, sources, Code.MISSING_SOURCE, f"the {side} source is a link to nothing")
    return _row(key, sources)


def _other_row(key: str, group: _Group, bases: tuple[str, str]) -> IndexedPair:
    kind = (group[0] or group[1])[0].kind
    if kind == _OTHER:
        return _row(key, _sources(group, bases), Code.NOT_IMAGE)
    detail = "its name is not UTF-8, or has an empty part between slashes"
    return _row(key, _sources(group, bases), Code.NAME_UNUSABLE, detail)


def _sources(group: _Group, bases: tuple[str, str]) -> list[_Source]:
    sources = []
    for files, base in zip(group, bases, strict=True):
        if not files:
            sources.append(_Source())
            continue
        path = files[0].key + files[0].suffix
        fingerprint = files[0].fingerprint
        size = int(fingerprint.partition("-")[0])
        if len(files) > 1:
            content = "\0".join(f"{file.suffix}\0{file.fingerprint}" for file in files)
            fingerprint = _digest(len(files), content)
        if files[0].kind == _UNUSABLE:
            path = _made_usable(path)
        sources.append(_Source(f"{base}/{path}", fingerprint, size))
    return sources


def _digest(count: int, content: str) -> str:
    return f"{count}-together-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


# A table


def index_table(table_uri: str) -> Iterator[IndexedPair]:
    """The pairs of a CSV (commas, UTF-8) or Parquet table with columns ``first``, ``second`` and, optionally, ``key``.

    Cells are absolute paths, URLs, or paths relative to the table's folder. Without a key it is the path of the
    first source as the table has it, less its suffix and what leads up to it ("/", "../", "s3://"). Other columns
    are ignored. Rows come by key, with their files looked up. Codes: AMBIGUOUS_PAIR (rows of one key become one),
    MISSING_SOURCE (also an empty cell), NAME_UNUSABLE (a key such as ../x), PERMISSION_DENIED, READ_FAILED.

    Raises:
        EmptyArchive: the table has no rows.
        ConfigurationError: it is neither CSV nor Parquet, or lacks a column.
        StorageError: it cannot be read.
    """
    rows = _read_table(table_uri)
    if not rows:
        raise EmptyArchive(f"no pairs in {table_uri}")
    by_key: dict[str, list[_TableRow]] = {}
    for row in rows:
        by_key.setdefault(row.unique_key, []).append(row)
    return _look_up(by_key, absolute(table_uri))


class _TableRow(NamedTuple):
    number: int
    first: str | None
    second: str | None
    key: str | None

    @property
    def unique_key(self) -> str:
        """The key of the pair, or one made up."""
        if self.key:
            return self.key if _is_usable(self.key) else _made_usable(self.key)
        if not self.first:
            return f"row-{self.number}"
        path = posixpath.normpath(self.first.partition("://")[2] or self.first)
        while path.startswith(("/", "../")):
            path = path.partition("/")[2]
        stem = split_suffix(path)[0]
        return stem if _is_usable(stem) else _made_usable(self.first)


def _read_table(uri: str) -> list[_TableRow]:
    content = pa.BufferReader(read_needed(uri))
    wanted = ("first", "second", "key")
    try:
        if content.read_at(4, 0) == b"PAR1":
            table = pq.read_table(content)
        else:
            # Text as it is written: keys such as 0001 are no numbers, and a file may be called NA.
            options = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), null_values=[""], strings_can_be_null=True
            )
            table = pyarrow.csv.read_csv(content, convert_options=options)
        names = table.column_names
        wrong = [name for name in wanted if names.count(name) != 1 and (name != "key" or names.count(name) > 1)]
        if wrong:
            raise ConfigurationError(f"{uri} needs one column {' and one '.join(wrong)}; it has {', '.join(names)}")
        columns = [
            table[name].cast(pa.string()).to_pylist() if name in names else [None] * len(table) for name in wanted
        ]
    except (pa.ArrowException, OSError) as error:
        raise ConfigurationError(f"{uri} is neither a CSV nor a Parquet table of texts: {error}") from error
    return [_TableRow(number, *cells) for number, cells in enumerate(zip(*columns, strict=True), start=1)]


def _look_up(by_key: dict[str, list[_TableRow]], table_uri: str) -> Iterator[IndexedPair]:
    keys = iter(sorted(by_key))
    with ThreadPoolExecutor(_STATS) as pool:
        while batch := list(islice(keys, _BATCH)):
            # A call per row would cost local tables more than the looking up.
            parts = [batch[start : start + 64] for start in range(0, len(batch), 64)]
            for found in pool.map(lambda part: [_table_pair(key, by_key[key], table_uri) for key in part], parts):
                yield from found


def _table_pair(key: str, rows: Sequence[_TableRow], table_uri: str) -> IndexedPair:
    row = rows[0]
    cells = (row.first, row.second)
    uris = [_resolve(cell, table_uri) if cell else None for cell in cells]
    sources = [_Source(uri) for uri in uris]
    if len(rows) > 1:
        content = "\0".join(f"{row.first}\0{row.second}" for row in rows)
        sources[0] = _Source(uris[0], _digest(len(rows), content))
        numbers = ", ".join(str(row.number) for row in rows)
        return _row(key, sources, Code.AMBIGUOUS_PAIR, f"rows {numbers} of the table have this key")
    where = f"row {row.number} of the table"
    for side, cell in zip(_SIDES, cells, strict=True):
        if not cell:
            return _row(key, sources, Code.MISSING_SOURCE, f"{where} has no {side}")
    if key != row.key and key.startswith(_UNUSABLE_PREFIX):
        return _row(key, sources, Code.NAME_UNUSABLE, where)
    fault: tuple[Code, str] | None = None
    for index, uri in enumerate(uris):
        try:
            file = stat_file(uri or "")
            sources[index] = _Source(file.uri, file.fingerprint, file.size)
        except PairError as error:
            fault = fault or (error.code, f"{where}, {_SIDES[index]}: {error.detail}")
    return _row(key, sources, *(fault or ()))


def _resolve(cell: str, table_uri: str) -> str:
    if "://" in cell or cell.startswith(("/", "~/")):
        return cell
    scheme, separator, path = table_uri.rpartition("://")
    return scheme + separator + posixpath.normpath(posixpath.join(posixpath.dirname(path), cell))


# The plan


@dataclass(frozen=True)
class Plan:
    """Which pairs need work, and how they are dealt out.

    Attributes:
        manifest: the rows to be made, of ``MANIFEST_SCHEMA``.
        found: rows of the index.
        settled: of these, how many need no work.
        given_up: of the settled ones, how many failed ``MAX_ATTEMPTS`` times.
        to_fuse: pairs of the manifest that are to be fused; the other rows only have a code.
        fuse_shards: ids of the shards that hold those pairs, and nothing else.
        code_shards: ids of the shards, of one chunk each, that hold the rest.
    """

    manifest: pa.Table
    found: int
    settled: int
    given_up: int
    to_fuse: int
    fuse_shards: tuple[str, ...]
    code_shards: tuple[str, ...]


def plan(
    pairs: Iterable[IndexedPair],
    done: pa.Table | None,
    config_hash: str,
    chunk_pairs: int,
    shard_pairs: int,
    retry_rejected: bool = False,
) -> Plan:
    """Leave out what is settled, and deal the rest into shards and chunks, in the order of ``pairs``.

    A pair is settled by a row with its fingerprints and this ``config_hash`` that is ok, skipped, rejected (unless
    ``retry_rejected``) or failed in its third attempt. A row that only has an index's code is settled by a row of
    the same code and fingerprints, under any configuration.

    Args:
        pairs: an index.
        done: ``current_rows`` of the destination and the job's method, with ``PLAN_COLUMNS`` at least.
        config_hash: of the job.
        chunk_pairs: pairs per chunk.
        shard_pairs: pairs per shard.
        retry_rejected: look again at pairs that were rejected when they were read.

    Raises:
        ValueError: a key occurs twice, in ``pairs`` or in ``done``.
    """
    rows = (RESULT_SCHEMA.empty_table() if done is None else done).select(list(PLAN_COLUMNS)).combine_chunks()
    _check_unique(rows["pair_key"], "done")
    to_fuse, coded = [_PLAN_SCHEMA.empty_table()], [_PLAN_SCHEMA.empty_table()]
    found = settled = given_up = 0
    source = iter(pairs)
    while batch := list(islice(source, _BATCH)):
        table = _batch_table(batch)
        previous = rows.take(pc.index_in(table["pair_key"], value_set=rows["pair_key"]))
        verdict = _judge(table, previous, config_hash, retry_rejected)
        found += len(batch)
        settled += int(verdict.settled.sum())
        given_up += int(verdict.given_up.sum())
        table = table.append_column(MANIFEST_SCHEMA.field("attempt"), pa.array(verdict.attempt))
        table = table.filter(pa.array(~verdict.settled))
        to_fuse.append(table.filter(pc.is_null(table["code"])))
        coded.append(table.filter(pc.is_valid(table["code"])))
    # Rows that need no work come last, in shards of their own: they would leave gaps in the batches of the others.
    count = sum(map(len, to_fuse))
    manifest = _deal(pa.concat_tables(to_fuse + coded), count, chunk_pairs, shard_pairs)
    shard_ids = manifest["shard_id"].unique().to_pylist()
    fuse_shards = -(-count // shard_pairs)
    return Plan(
        manifest, found, settled, given_up, count, tuple(shard_ids[:fuse_shards]), tuple(shard_ids[fuse_shards:])
    )


_PLAN_SCHEMA: Final = pa.schema([item for item in MANIFEST_SCHEMA if item.name not in ("shard_id", "chunk_id")])
_PAIR_SCHEMA: Final = pa.schema([item for item in _PLAN_SCHEMA if item.name != "attempt"])


def _batch_table(batch: Sequence[IndexedPair]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        name: [getattr(pair, name) for pair in batch] for name in _PAIR_SCHEMA.names if name != "message"
    }
    # The sentence that the row of a PairError has.
    columns["message"] = ["" if pair.code is None else str(PairError(pair.code, pair.detail)) for pair in batch]
    return table_of(columns, _PAIR_SCHEMA)


class _Verdict(NamedTuple):
    settled: NDArray[np.bool_]
    given_up: NDArray[np.bool_]
    attempt: NDArray[np.int32]


def _judge(pairs: pa.Table, previous: pa.Table, config_hash: str, retry_rejected: bool) -> _Verdict:
    """``previous`` has the row that each pair had before, of nulls where there is none."""
    coded = pc.is_valid(pairs["code"]).to_numpy()
    same = _equal(pairs["first_fingerprint"], previous["first_fingerprint"])
    same &= _equal(pairs["second_fingerprint"], previous["second_fingerprint"])
    same &= np.where(
        coded,
        _equal(pairs["code"], previous["code"]),
        _equal(previous["config_hash"], config_hash) & ~_is_any(previous["code"], _INDEX_CODES),
    )
    attempts = pc.fill_null(previous["attempt"], 0).to_numpy()
    failed = same & _is_any(previous["status"], (Status.FAILED,))
    given_up = failed & (attempts >= MAX_ATTEMPTS)
    settled = given_up | (same & _is_any(previous["status"], (Status.OK, Status.SKIPPED)))
    rejected = same & _is_any(previous["status"], (Status.REJECTED,))
    settled |= rejected & coded if retry_rejected else rejected
    return _Verdict(settled, given_up, np.where(failed, attempts + 1, 1).astype(np.int32))


def _equal(column: Any, other: Any) -> NDArray[np.bool_]:
    """Element by element; nothing equals nothing."""
    if not isinstance(other, str):
        other = pc.fill_null(other, "")
    same: NDArray[np.bool_] = pc.equal(pc.fill_null(column, ""), other).to_numpy()
    return same


def _is_any(column: Any, values: Sequence[str]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_in(column, value_set=pa.array([str(value) for value in values])).to_numpy()
    return found


def _deal(table: pa.Table, to_fuse: int, chunk_pairs: int, shard_pairs: int) -> pa.Table:
    """The manifest of a table whose first ``to_fuse`` rows are pairs to fuse."""
    _check_unique(table["pair_key"], "pairs")
    number = np.arange(len(table))
    rest = number - to_fuse
    fuse_shards = -(-to_fuse // shard_pairs)
    shard = np.where(rest < 0, number // shard_pairs, fuse_shards + rest // shard_pairs)
    chunk = np.where(rest < 0, number % shard_pairs // chunk_pairs, 0)
    columns = {name: table[name] for name in table.column_names}
    return table_of(columns | {"shard_id": _labels(shard), "chunk_id": _labels(chunk)}, MANIFEST_SCHEMA)


def _labels(numbers: NDArray[np.int64]) -> pa.Array:
    """Numbers as texts of one width that sort as they do."""
    count = int(numbers.max()) + 1 if len(numbers) else 0
    width = max(4, len(str(count - 1)))
    return pa.array([f"{number:0{width}d}" for number in range(count)], pa.string()).take(pa.array(numbers))


def _check_unique(keys: Any, where: str) -> None:
    if pc.count_distinct(keys).as_py() != len(keys):
        counts = pc.value_counts(keys)
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        raise ValueError(f"{where}: keys must be unique, but {twice[0]} is not")
