"""The files of one source to a volume, by what they are."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.codes import Code, PairError
from tasks.read.dicom import read_dicom_volume
from tasks.read.nifti import read_nifti
from tasks.storage import read_bytes
from tasks.volume import Volume
from tasks.volume_options import VolumeOptions


def read_volume(uris: Sequence[str], kind: str, options: VolumeOptions, readers: int) -> Volume:
    """Read a NIfTI file or the files of a DICOM series.

    Args:
        uris: one NIfTI file, or the files of a series in any order.
        kind: "nifti" or "dicom".
        options: limits, and what is allowed of gaps, tilts and 4-D files.
        readers: files of a series fetched at a time.

    Raises:
        PairError: the source cannot be trusted or read.
        StorageError: the store is out of reach, and no source could be read.
    """
    if not uris:
        raise PairError(Code.MISSING_SOURCE, "no files are known of it")
    if kind == "nifti":
        return read_nifti(read_bytes(uris[0]), options.limits, volume_index=options.volume_index)
    return read_dicom_volume(
        uris, read_bytes, options.limits, fill_gaps=options.fill_gaps, remove_tilt=options.remove_tilt, readers=readers
    )
