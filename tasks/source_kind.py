"""What the sources of a job are, told from a few of their names: pictures or medical volumes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Literal, TypeAlias

from tasks.codes import ConfigurationError, PairError
from tasks.index import EmptyArchive, split_suffix
from tasks.job import Job
from tasks.job_file import make_job
from tasks.pair_table import first_uris
from tasks.privacy import without_names
from tasks.read.raster import RASTER_SUFFIXES
from tasks.run_folder import list_runs
from tasks.scratch import scratch_folder
from tasks.settings import read_settings
from tasks.storage import StorageError, absolute, list_files, read_start

Kind: TypeAlias = Literal["images", "volumes"]

_LOOKED_AT: Final = 1000
"""Names by which the kind of a source is told."""
_LOOKED_INTO: Final = 20
"""Files without a telling name whose first bytes are looked at."""
_OF_PSEUDONYMS: Final = re.compile(r"[0-9a-f*?\[\]!-]*")
_VOLUME_SUFFIXES: Final = frozenset({".nii", ".nii.gz", ".dcm", ".dicom", ".ima"})


def settle_kind(job: Job) -> Job:
    """The job with its ``kind`` decided, by looking at some names of its sources, or at some files' first bytes.

    Raises:
        ConfigurationError: what the job says does not go with that kind.
        EmptyArchive: a source has no files at all.
        StorageError: a source cannot be read.
    """
    # Until the kind is known, sources may be of patients.
    kind = without_names(job.privacy != "off", job.sources_in_words, lambda: _kind_of(job))
    settled = {"kind": kind, "private": job.private and absolute(job.private)}
    job = make_job(job.model_dump(by_alias=True) | settled)
    if job.strict:
        _check_patterns(job)
    return job


def _check_patterns(job: Job) -> None:
    for field, patterns in (("only", job.only), ("homographies", tuple(job.homographies))):
        for pattern in patterns:
            if not _OF_PSEUDONYMS.fullmatch(pattern):
                raise ConfigurationError(
                    f"{field}: in strict privacy keys are pseudonyms of 20 hexadecimal digits, and patterns are "
                    "written in clear; give pseudonyms or *, or choose the sources otherwise"
                )


def _kind_of(job: Job) -> Kind:
    uris = _first_uris(job)
    if job.kind != "auto":
        return job.kind
    if job.archive is not None:
        return "volumes"
    seen = {kind for of_side in uris for kind in _kinds(of_side)}
    if len(seen) < 2:
        return seen.pop() if seen else "images"
    before = _kind_of_last_run(job)
    if before is None:
        raise ConfigurationError(
            "kind: the sources hold pictures and volumes (DICOM, NIfTI); say which are meant with kind: images or "
            "kind: volumes"
        )
    return before


def _kind_of_last_run(job: Job) -> Kind | None:
    """One stray file must not turn a job round that has run for months."""
    for run in reversed(list_runs(absolute(job.out))):
        with contextlib.suppress(ConfigurationError, StorageError):
            last = read_settings(run).job
            if last.method_name == job.method_name and last.kind != "auto":
                return last.kind
    return None


def _first_uris(job: Job) -> list[list[str]]:
    """What the sources begin with, each for itself; a folder has at least one file."""
    if job.pairs is not None:
        with scratch_folder() as scratch:
            return [first_uris(job.pairs, scratch, _LOOKED_AT)]
    # Where the kind is told, only an empty folder has to be found out.
    count = _LOOKED_AT if job.kind == "auto" and job.archive is None else 1
    found = []
    for root in dict.fromkeys(root for root in (job.first, job.second, job.archive) if root is not None):
        found.append([file.uri for file in islice(list_files(root), count)])
        if not found[-1]:
            raise EmptyArchive(f"no files below {root}")
    return found


def _kinds(uris: Iterable[str]) -> Iterator[Kind]:
    """What the files are, of those that tell."""
    looked_into = 0
    for uri in uris:
        suffix = split_suffix(uri)[1].lower()
        if suffix in _VOLUME_SUFFIXES:
            yield "volumes"
        elif suffix in RASTER_SUFFIXES:
            yield "images"
        elif looked_into < _LOOKED_INTO:
            looked_into += 1
            if _is_dicom(uri):
                yield "volumes"


def _is_dicom(uri: str) -> bool:
    """Whether a file begins as DICOM does, or a table names a folder, which only series of volumes are."""
    try:
        return read_start(uri, 132)[128:] == b"DICM"
    except PairError:
        # What cannot be read tells nothing; its row will.
        with contextlib.suppress(StorageError):
            return next(list_files(uri), None) is not None
    return False
