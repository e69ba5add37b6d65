"""What the sources of a job hold: the index that its plan is made from."""

from __future__ import annotations

from pathlib import Path

from tasks.index import Index
from tasks.job import Job
from tasks.pair_folders import index_folders
from tasks.pair_table import index_table
from tasks.privacy import Pseudonyms, without_names
from tasks.private_sources import write_private
from tasks.pseudonymise import ArchiveIndex, pseudonymise
from tasks.storage import absolute, exists, join
from tasks.tables import fetch_needed


def index_archive(
    job: Job, scratch: Path, pseudonyms: Pseudonyms | None, *, keep_headers: bool = False
) -> ArchiveIndex:
    """What the job's sources hold now, as a plan may write it.

    Args:
        job: of a settled kind.
        scratch: a local folder for the index.
        pseudonyms: needed where ``job.needs_pseudonyms``.
        keep_headers: store what was read of DICOM files in the destination's private folder, so that the next index
            reads only new files. The caller holds the lock of the destination.

    Raises:
        ConfigurationError: a source holds nothing to fuse, or the table of pairs is not one.
        StorageError: a source cannot be reached (in strict privacy it is told about the root only), or the private
            folder.
    """
    kept = headers_uri(job)
    known = fetch_needed(kept, scratch) if job.of_volumes and exists(kept) else None

    def index() -> tuple[ArchiveIndex, Path | None]:
        headers = None
        if job.of_volumes:
            found, sources, headers = _index_volumes(job, scratch, known)
        else:
            found, sources = _index_images(job, scratch), None
            if not job.strict:
                return ArchiveIndex(found), None
        return pseudonymise(found, sources, job.roots, pseudonyms, scratch, hide=job.strict), headers

    archive, headers = without_names(job.strict, job.sources_in_words, index)
    if keep_headers and headers is not None:
        write_private(kept, headers)
    return archive


def _index_images(job: Job, scratch: Path) -> Index:
    if job.first is not None and job.second is not None:
        return index_folders(job.first, job.second, scratch, job.fingerprint)
    return index_table(job.pairs or "", scratch, job.fingerprint)


def _index_volumes(job: Job, scratch: Path, known: Path | None) -> tuple[Index, Path, Path | None]:
    """The index, its sources, and headers that were read anew."""
    # Medical libraries take a second to import, which pictures should not pay.
    from tasks.volume_index import index_bids, index_dicom_archive, index_volume_folders, index_volume_table

    modalities, limits = (job.modality_first, job.modality_second), job.volumes.limits
    if job.archive is not None and job.pairing == "bids":
        found = index_bids(job.archive, scratch, modalities, fingerprint=job.fingerprint)
    elif job.archive is not None:
        found = index_dicom_archive(
            job.archive, scratch, modalities, known=known, limits=limits, fingerprint=job.fingerprint
        )
    elif job.pairs is not None:
        found = index_volume_table(job.pairs, scratch, known=known, limits=limits, fingerprint=job.fingerprint)
    else:
        found = index_volume_folders(
            job.first or "", job.second or "", scratch, known=known, limits=limits, fingerprint=job.fingerprint
        )
    return found.index, found.sources, found.headers if found.read else None


def headers_uri(job: Job) -> str:
    """Where what was read of DICOM files is kept from run to run; it names patients."""
    return join(job.private_folder(absolute(job.out)), "headers.parquet")
