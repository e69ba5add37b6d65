"""Files under hidden names until they are whole, and the removal of those that killed writers left."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from tasks.storage import s3
from tasks.storage.explanations import named
from tasks.storage.paths import join, local_path, protocol

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S

_TEMPORARY: Final = re.compile(r"\.ddfm-[0-9a-f]{32}\.tmp")


@contextlib.contextmanager
def temporary_file(folder: Path, *, owner_only: bool = False) -> Iterator[tuple[Path, BinaryIO]]:
    """A new hidden file in ``folder``, which is made as needed; removed at the end unless it was renamed by then.

    Args:
        folder: the file's.
        owner_only: nobody but the owner may read the file, nor look into the folder where that is made for it.
    """
    folder.mkdir(0o700 if owner_only else 0o777, parents=True, exist_ok=True)
    # Not derived from the name of what is written, which may have the full 255 bytes.
    path = folder / f".ddfm-{uuid.uuid4().hex}.tmp"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if owner_only else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield path, file
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacement(path: Path, *, owner_only: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` at the end, synced; after an error nothing has changed.

    ``owner_only`` is as in :func:`temporary_file`.

    The folder itself is not synced: a rename that a power cut takes back costs work done again, and renames of one
    file system come back in their order.
    """
    with temporary_file(path.parent, owner_only=owner_only) as (temporary, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        temporary.replace(path)


def sweep_temporaries(folder: str, file_age_s: float = HOUR_S, upload_age_s: float = DAY_S) -> int:
    """Remove what killed writers left below ``folder``; how many files or uploads that were.

    Locally these are hidden temporary files of this program. On S3 they are multipart uploads, which carry no name
    of their writer: all below ``folder`` are taken for this program's, so give a destination, never a shared bucket.

    Args:
        folder: a destination; nothing is done when it does not exist.
        file_age_s: temporary files younger than this are left alone; their writers may live.
        upload_age_s: the same for multipart uploads.

    Raises:
        StorageError: the folder cannot be read, or not be written.
    """
    path = local_path(folder)
    with named(folder):
        if path is not None:
            return _sweep_local(path, time.time() - file_age_s)
        return _sweep_s3(folder, time.time() - upload_age_s) if protocol(folder) == "s3" else 0


def _sweep_local(root: Path, before: float) -> int:
    def refuse(error: OSError) -> None:
        if error.errno != errno.ENOENT:
            raise error

    removed = 0
    for folder, _, names in os.walk(root, onerror=refuse):
        for name in filter(_TEMPORARY.fullmatch, names):
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # its writer, or another sweep, was first
                if path.lstat().st_mtime <= before:
                    path.unlink()
                    removed += 1
    return removed


def _sweep_s3(folder: str, before: float) -> int:
    bucket = join(folder).split("/")[2]
    stale = [found for found in s3.uploads(folder) if found["Initiated"].timestamp() <= before]
    for upload in stale:
        s3.abort_upload(f"s3://{bucket}/{upload['Key']}", upload["UploadId"])
    return len(stale)
