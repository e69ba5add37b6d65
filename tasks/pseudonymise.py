"""An index with pseudonyms for everything below the roots, and the sources that lead back from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.index import Index
from tasks.ordered import aligned, ascending
from tasks.privacy import Pseudonyms
from tasks.schemas import INDEX_SCHEMA, PRIVATE_SCHEMA, table_of
from tasks.scratch import scratch_errors
from tasks.sort_pseudonyms import PseudonymSort
from tasks.tables import ROWS, TableWriter, table_batches

_ROWS: Final = 512
"""Rows with lists of files that are held at a time."""


@dataclass(frozen=True, slots=True)
class ArchiveIndex:
    """What the sources of a job hold.

    Attributes:
        index: its rows, as a plan may write them.
        sources: a local file of ``PRIVATE_SCHEMA`` with the same keys, None where the rows say it themselves.
    """

    index: Index
    sources: Path | None = None


def pseudonymise(
    index: Index,
    volume_sources: Path | None,
    roots: tuple[str | None, str | None],
    pseudonyms: Pseudonyms | None,
    scratch: Path,
    *,
    hide: bool,
) -> ArchiveIndex:
    """Replace keys, URIs and fingerprints of an index, and make the private table of what they were.

    A URI becomes its root and a pseudonym, so that rows still tell which root they are of. Keys of one archive are the
    same in every run. Details of rows are dropped for pictures: they may name files; those of volumes never do.

    Args:
        index: in clear.
        volume_sources: a local file of :mod:`tasks.volume_index.sources`, None for pictures.
        roots: the folders of the two sides, None where there is none, such as in a table of pairs.
        pseudonyms: None where none are needed; then ``hide`` must be False.
        scratch: a local folder for the result.
        hide: False keeps the index in clear; the private table then only names the files of volumes.

    Raises:
        ValueError: there is something to hide, and nothing to hide it under.
        StorageError: ``scratch`` cannot be written.
    """
    if hide and pseudonyms is None:
        raise ValueError("pseudonyms are needed to hide names")
    with scratch_errors(scratch):
        return _pseudonymised(index, volume_sources, roots, pseudonyms if hide else None, pseudonyms, scratch)


def _pseudonymised(
    index: Index,
    volume_sources: Path | None,
    roots: Sequence[str | None],
    hidden: Pseudonyms | None,
    pseudonyms: Pseudonyms | None,
    scratch: Path,
) -> ArchiveIndex:
    """``hidden`` are the pseudonyms where the index is to be hidden under them."""
    path, sources = scratch / "index-pseudonymous.parquet", scratch / "private-sources.parquet"
    pieces = _with_sources(index, volume_sources)
    if hidden is None:
        with TableWriter(sources, PRIVATE_SCHEMA, rows=_ROWS) as private:
            for pairs, found in pieces:
                private.write(_private(pairs["pair_key"], found, pseudonyms))
        return ArchiveIndex(index, sources)
    with (
        PseudonymSort(scratch, "index-dealt", INDEX_SCHEMA) as index_rows,
        PseudonymSort(scratch, "private-dealt", PRIVATE_SCHEMA) as private_rows,
    ):
        for pairs, found in pieces:
            keys = pa.array([hidden.of("pair", key) for key in pairs["pair_key"].to_pylist()], pa.string())
            private_rows.add(_private(keys, found, pseudonyms))
            index_rows.add(_hidden(pairs, keys, roots, hidden, keep_details=volume_sources is not None))
        _write(path, INDEX_SCHEMA, ROWS, index_rows.tables())
        _write(sources, PRIVATE_SCHEMA, _ROWS, private_rows.tables())
    return ArchiveIndex(Index(path, index.rows), sources)


def _write(path: Path, schema: pa.Schema, rows: int, tables: Iterator[pa.Table]) -> None:
    with TableWriter(path, schema, rows=rows) as writer:
        for table in tables:
            writer.write(table)


def _with_sources(index: Index, volume_sources: Path | None) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Pieces of the index, each with the sources of its rows: the columns of ``PRIVATE_SCHEMA`` but ``uid_key``."""
    if volume_sources is None:
        for pairs in index.tables():
            yield pairs, _sources_of_images(pairs)
        return
    # Medical libraries take a while to import, which pictures should not pay.
    from tasks.volume_index.sources import SOURCES_SCHEMA

    lists = ascending(table_batches(volume_sources, SOURCES_SCHEMA), "sources")
    for pairs, found in aligned([ascending(index.tables(), "index"), lists]):
        assert pairs is not None  # noqa: S101 - one writer made both
        assert found is not None  # noqa: S101
        assert pairs["pair_key"].equals(found["pair_key"])  # noqa: S101
        yield pairs, found


def _sources_of_images(pairs: pa.Table) -> pa.Table:
    kinds, nothing = pa.repeat("image", len(pairs)), pa.repeat("", len(pairs))
    return pa.table({
        "pair_key": pairs["pair_key"],
        "first_uris": _lists_of_one(pairs["first_uri"]),
        "second_uris": _lists_of_one(pairs["second_uri"]),
        "first_kind": kinds,
        "second_kind": kinds,
        "first_modality": nothing,
        "second_modality": nothing,
        "patient": nothing,
    })  # fmt: skip


def _lists_of_one(column: pa.ChunkedArray) -> pa.Array:
    """Each value as a list, an empty one for none."""
    counts = pc.is_valid(column).to_numpy().astype(np.int32)
    offsets = np.append(np.int32(0), np.cumsum(counts, dtype=np.int32))
    return pa.ListArray.from_arrays(pa.array(offsets), column.drop_null().combine_chunks())


def _private(keys: pa.Array | pa.ChunkedArray, found: pa.Table, pseudonyms: Pseudonyms | None) -> pa.Table:
    """Rows of ``PRIVATE_SCHEMA`` under these keys."""
    columns = {name: found[name].cast(PRIVATE_SCHEMA.field(name).type) for name in found.column_names}
    return table_of(columns | {
        "pair_key": keys,
        "patient": _of_patients("patient", keys, found, pseudonyms),
        "uid_key": _of_patients("uids", keys, found, pseudonyms),
    }, PRIVATE_SCHEMA)  # fmt: skip


def _of_patients(
    purpose: str, keys: pa.Array | pa.ChunkedArray, found: pa.Table, pseudonyms: Pseudonyms | None
) -> list[str]:
    if pseudonyms is None:
        return [""] * len(found)
    pairs = zip(keys.to_pylist(), found["patient"].to_pylist(), strict=True)
    # A pair without a patient is its own: nothing links it with another.
    return [pseudonyms.of(purpose, patient or f"pair {key}") for key, patient in pairs]


def _hidden(
    pairs: pa.Table, keys: pa.Array, roots: Sequence[str | None], pseudonyms: Pseudonyms, *, keep_details: bool
) -> pa.Table:
    def uris(name: str, root: str | None) -> list[str | None]:
        before = f"{root}/" if root else ""
        return [uri and before + pseudonyms.of("uri", uri) for uri in pairs[name].to_pylist()]

    def versions(name: str) -> list[str | None]:
        return [value and pseudonyms.of("fingerprint", value) for value in pairs[name].to_pylist()]

    columns = {name: pairs[name] for name in INDEX_SCHEMA.names} | {
        "pair_key": keys,
        "first_uri": uris("first_uri", roots[0]),
        "second_uri": uris("second_uri", roots[1]),
        "first_fingerprint": versions("first_fingerprint"),
        "second_fingerprint": versions("second_fingerprint"),
    }
    if not keep_details:
        columns["detail"] = [""] * len(pairs)
    return pa.table(list(columns.values()), schema=INDEX_SCHEMA)
