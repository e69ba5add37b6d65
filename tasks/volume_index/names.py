"""What a file of a medical archive is by its name: a NIfTI volume, nothing to fuse, or to be told by its content."""

from __future__ import annotations

import posixpath
from typing import Final, NamedTuple

from tasks.codes import Code
from tasks.index import is_usable, made_usable, split_suffix
from tasks.read.raster import RASTER_SUFFIXES
from tasks.storage import DANGLING, StoredFile
from tasks.volume_index.sources import Kind

NIFTI_SUFFIXES: Final = frozenset({".nii", ".nii.gz"})

OTHER_SUFFIXES: Final = RASTER_SUFFIXES | {
    ".bids", ".bval", ".bvec", ".cfg", ".csv", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".log",
    ".m", ".mat", ".md", ".npy", ".npz", ".parquet", ".pdf", ".pptx", ".py", ".rst", ".sh", ".sql", ".sqlite", ".svg",
    ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
}  # fmt: skip
"""Of files that are never looked into. Archives such as .zip are not among them: they may hold what is missed."""

DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom", ".dic", ".ima", ".img"})
"""Which a DICOM file may have, or none, or any other: they are told by content."""

_DICOMDIR: Final = "dicomdir"


class NamedFile(NamedTuple):
    """What a name tells.

    Attributes:
        key: the path below the root, or a printable one in place of a path that no table can keep.
        kind: NIFTI, DICOM for a file that its content will have to tell, NONE for all others.
        code: why it is no volume, or none that can be used; always there for kind NONE.
        detail: what was found.
    """

    key: str
    kind: Kind
    code: Code | None = None
    detail: str = ""


def named_file(file: StoredFile) -> NamedFile:
    """What a file is by its name and as it is listed."""
    name = posixpath.basename(file.relative)
    if not is_usable(file.relative):
        return NamedFile(
            _storable(file.relative), Kind.NONE, Code.NAME_UNUSABLE,
            "its name is not UTF-8, or has an empty part between slashes",
        )  # fmt: skip
    suffix = split_suffix(name)[1].lower()
    kind = Kind.NIFTI if suffix in NIFTI_SUFFIXES else Kind.NONE if suffix in OTHER_SUFFIXES else Kind.DICOM
    if file.fingerprint == DANGLING:
        return NamedFile(file.relative, kind, Code.MISSING_SOURCE, "a link to nothing")
    if name.lower() == _DICOMDIR:
        return NamedFile(file.relative, Kind.NONE, Code.DICOMDIR)
    if kind == Kind.NONE:
        return NamedFile(file.relative, kind, Code.NOT_IMAGE)
    return NamedFile(file.relative, kind)


def stem_of(path: str) -> str:
    """The path without the suffix of a NIfTI or DICOM file; what follows a dot in a UID is none."""
    stem, suffix = split_suffix(path)
    return stem if suffix.lower() in NIFTI_SUFFIXES | DICOM_SUFFIXES else path


def _storable(relative: str) -> str:
    """Only the name is replaced where that is enough, so that the file is found in its folder."""
    folder, name = posixpath.split(relative)
    return f"{folder}/{made_usable(name)}" if is_usable(folder) else made_usable(relative)
