"""Pair NIfTI files by BIDS-like names: sub-01_ses-1_pet.nii.gz with sub-01_ses-1_T1w.nii.gz.

BIDS (bids-specification.readthedocs.io, 1.10) has no data type for CT and SPECT; ``_ct`` and ``_spect`` are taken as
suffixes like the others. Only names are looked at, no sidecar.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tasks.codes import Code, ConfigurationError, PairError
from tasks.index import EmptyArchive, Fingerprint, Source, content_fingerprint
from tasks.modality import modality_of
from tasks.scratch import open_database, view_tables
from tasks.storage import StoredFile, list_files
from tasks.tables import ROWS, TableWriter
from tasks.volume_index.names import NamedFile, named_file, stem_of
from tasks.volume_index.rows import RowWriter
from tasks.volume_index.sources import Kind, VolumeIndex
from tasks.volume_index.volumes import FoundVolume

TELLING_ENTITIES: Final = ("acq", "ce", "trc", "rec", "run")
"""By which several images of one session are told apart, when files of both suffixes have the entity."""

_IGNORED_FOLDERS: Final = frozenset({"derivatives", "sourcedata"})
_ENTITY: Final = re.compile(r"([A-Za-z]+)-([A-Za-z0-9+]+)")
_SUFFIX: Final = re.compile(r"[A-Za-z0-9]+")
_FILE_SCHEMA: Final = pa.schema([
    pa.field("dataset", pa.string(), nullable=False),
    pa.field("subject", pa.string(), nullable=False),
    pa.field("session", pa.string(), nullable=False),
    pa.field("side", pa.int8(), nullable=False),
    pa.field("entities", pa.list_(pa.string()), nullable=False),
    pa.field("stem", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("fingerprint", pa.string(), nullable=False),
    pa.field("size", pa.int64(), nullable=False),
    pa.field("modified", pa.float64(), nullable=False),
    pa.field("code", pa.string()),
    pa.field("detail", pa.string(), nullable=False),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class BidsName:
    """A name's parts.

    Attributes:
        dataset: path of the folder that has the subject's folder, "" for the root.
        entities: by their short names, without ``sub`` and ``ses``; a run without leading zeros.
    """

    dataset: str
    subject: str
    session: str
    entities: Mapping[str, str]
    suffix: str


def parse_bids_name(relative: str) -> BidsName | None:
    """The parts of a path such as ``sub-01/pet/sub-01_trc-FDG_pet.nii.gz``, None when it is not built so."""
    folder, name = posixpath.split(stem_of(relative))
    *pairs, suffix = name.split("_")
    matches = [_ENTITY.fullmatch(pair) for pair in pairs]
    if not matches or not _SUFFIX.fullmatch(suffix):
        return None
    entities: dict[str, str] = {}
    for match in matches:
        if match is None or match[1] in entities:
            return None
        entities[match[1]] = match[2]
    if next(iter(entities)) != "sub":
        return None
    if "run" in entities:
        entities["run"] = entities["run"].lstrip("0") or "0"
    parts = folder.split("/") if folder else []
    at = next((place for place, part in enumerate(parts) if part.startswith("sub-")), len(parts))
    subject, session = entities.pop("sub"), entities.pop("ses", "")
    return BidsName("/".join(parts[:at]), subject, session, entities, suffix)


def index_bids(
    root: str, scratch: Path, suffixes: tuple[str, str], *, fingerprint: Fingerprint = "stat"
) -> VolumeIndex:
    """Pair the files of two suffixes that have the same subject and session, in the data sets below a folder.

    Where a session has several of one suffix, those pair whose ``TELLING_ENTITIES`` are equal, as far as files of
    both suffixes have them. The key is the first source's path without suffix. Folders ``derivatives`` and
    ``sourcedata`` and names with ``desc-fused`` are no part of the archive. Codes: AMBIGUOUS_PAIR, NO_PARTNER
    (also for a NIfTI file whose name is not BIDS-like), OTHER_MODALITY (another suffix), NOT_IMAGE (sidecars and all
    that is not NIfTI), MISSING_SOURCE (a link to nothing), NAME_UNUSABLE; with fingerprints by content also
    PERMISSION_DENIED and READ_FAILED.

    Args:
        suffixes: of the first and the second source, such as ``("pet", "T1w")``.

    Raises:
        ConfigurationError: the suffixes are one, or no suffixes.
        EmptyArchive: no file has one of the suffixes.
        StorageError: the folder cannot be read.
    """
    if len(set(suffixes)) != 2 or not all(_SUFFIX.fullmatch(suffix) for suffix in suffixes):
        raise ConfigurationError(
            f"two different suffixes of BIDS names are needed, such as pet and T1w, got {' and '.join(suffixes)}"
        )
    path = scratch / "bids-files.parquet"
    with RowWriter(scratch) as rows:
        with TableWriter(path, _FILE_SCHEMA) as writer:
            _list(root, suffixes, fingerprint, writer, rows)
        if not writer.rows:
            raise EmptyArchive(
                f"no files named sub-..._{suffixes[0]} or sub-..._{suffixes[1]} (.nii, .nii.gz) in {root}"
            )
        with open_database(scratch, writer.bytes) as database:
            view_tables(database, "files", path)
            in_order = database.sql("SELECT * FROM files ORDER BY dataset, subject, session, side, stem, uri")
            files = (row for batch in in_order.to_arrow_reader(ROWS) for row in batch.to_pylist())
            for _, members in groupby(files, key=lambda file: (file["dataset"], file["subject"], file["session"])):
                sides: tuple[list[_File], list[_File]] = ([], [])
                for row in members:
                    found = _volume(row, suffixes[row["side"]])
                    sides[row["side"]].append(_File(found, dict(zip(TELLING_ENTITIES, row["entities"], strict=True))))
                _pair_session(sides, suffixes, rows)
        path.unlink()
        return rows.finish()


@dataclass(frozen=True, slots=True)
class _File:
    volume: FoundVolume
    entities: Mapping[str, str | None]


def _list(root: str, suffixes: Sequence[str], fingerprint: Fingerprint, writer: TableWriter, rows: RowWriter) -> None:
    files = (file for file in list_files(root) if not _is_ignored(file.relative))
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(files, ROWS)):
            wanted: list[tuple[StoredFile, NamedFile, BidsName]] = []
            for file in batch:
                named = named_file(file)
                name = parse_bids_name(file.relative) if named.kind == Kind.NIFTI else None
                if name is not None and name.suffix in suffixes:
                    wanted.append((file, named, name))
                else:
                    _add_other(file, named, name, rows)
            if fingerprint == "content":
                wanted = list(pool.map(_with_content, wanted))
            writer.write(pa.Table.from_pylist([_file_row(*entry, suffixes) for entry in wanted], _FILE_SCHEMA))


_READERS: Final = 16
"""Files hashed at a time, with fingerprints by content."""


def _is_ignored(relative: str) -> bool:
    folder, name = posixpath.split(relative)
    return not _IGNORED_FOLDERS.isdisjoint(folder.split("/")) or "desc-fused" in re.split(r"[_.]", name)


def _add_other(file: StoredFile, named: NamedFile, name: BidsName | None, rows: RowWriter) -> None:
    source = Source(file.uri, file.fingerprint, file.size, file.modified)
    if named.kind != Kind.NIFTI:
        code, detail = named.code or Code.NOT_IMAGE, named.detail
        source = replace(source, uri=None) if code == Code.NAME_UNUSABLE else source
        rows.add_other(named.key, (source, Source()), code, detail)
    elif name is None:
        rows.add_other(named.key, (source, Source()), Code.NO_PARTNER, "its name is not of the form sub-..._suffix")
    else:
        rows.add_other(named.key, (source, Source()), Code.OTHER_MODALITY)


def _with_content(entry: tuple[StoredFile, NamedFile, BidsName]) -> tuple[StoredFile, NamedFile, BidsName]:
    file, named, name = entry
    if named.code is not None:
        return entry
    try:
        return replace(file, fingerprint=content_fingerprint(file)), named, name
    except PairError as error:
        return file, named._replace(code=error.code, detail=error.detail), name


def _file_row(file: StoredFile, named: NamedFile, name: BidsName, suffixes: Sequence[str]) -> dict[str, object]:
    return {
        "dataset": name.dataset, "subject": name.subject, "session": name.session,
        "side": suffixes.index(name.suffix), "entities": [name.entities.get(entity) for entity in TELLING_ENTITIES],
        "stem": stem_of(file.relative), "uri": file.uri, "fingerprint": file.fingerprint, "size": file.size,
        "modified": file.modified, "code": named.code, "detail": named.detail,
    }  # fmt: skip


def _volume(row: Mapping[str, Any], suffix: str) -> FoundVolume:
    columns = {name: row[name] for name in ("stem", "uri", "fingerprint", "size", "modified", "detail")}
    patient = posixpath.join(str(row["dataset"]), f"sub-{row['subject']}")
    return FoundVolume(
        root=0, kind=Kind.NIFTI, code=row["code"] and Code(row["code"]), modality=modality_of(suffix),
        patient_id=patient, **columns,
    )  # fmt: skip


def _pair_session(sides: tuple[list[_File], list[_File]], suffixes: Sequence[str], rows: RowWriter) -> None:
    """The rows of all files of one subject and session."""
    telling: list[str] = []
    if all(sides) and max(map(len, sides)) > 1:
        telling = [
            entity
            for entity in TELLING_ENTITIES
            if all(any(file.entities[entity] for file in files) for files in sides)
        ]
    groups: defaultdict[tuple[str | None, ...], tuple[list[FoundVolume], list[FoundVolume]]]
    groups = defaultdict(lambda: ([], []))
    for place, files in enumerate(sides):
        for file in files:
            groups[tuple(file.entities[entity] for entity in telling)][place].append(file.volume)
    for first, second in groups.values():
        key = min(volume.stem for volume in first or second)
        if not (first and second):
            # Of several without a partner each has a row of its own.
            missing = suffixes[1] if first else suffixes[0]
            detail = f"no {missing} of this subject and session" + " and these entities" * bool(telling)
            for volume in first or second:
                rows.add(volume.stem, [volume] * bool(first), [volume] * bool(second), Code.NO_PARTNER, detail)
        elif len(first) == len(second) == 1:
            rows.add_pair(key, first[0], second[0])
        else:
            counts = " and ".join(
                f"{len(side)} {suffix}" for side, suffix in zip((first, second), suffixes, strict=True)
            )
            rows.add(key, first, second, Code.AMBIGUOUS_PAIR, f"{counts} of one subject and session")
