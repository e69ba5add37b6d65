"""Files too large for memory: streamed to their place, and fetched from it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from tasks.storage import s3
from tasks.storage.explanations import named, pair_error
from tasks.storage.listing import stat_file
from tasks.storage.paths import local_path, protocol
from tasks.storage.places import filesystem
from tasks.storage.retries import retrying
from tasks.storage.temporaries import replacement

SINGLE_PUT_BYTES: Final = 32 * 2**20
"""S3 objects up to this size are put in one request, larger ones in parts."""

PART_BYTES: Final = 16 * 2**20
"""Of an upload or download; what one transfer holds in memory."""

MOST_PARTS: Final = 10_000

_log = logging.getLogger(__name__)


def write_file(uri: str, path: Path, *, owner_only: bool = False) -> None:
    """Copy a local file of any size to its place, whole or not at all, in place of what was there.

    Locally under a hidden temporary name, synced, then renamed. On S3 in one put or in parts, each with a checksum
    and retried; after a failure the parts are dropped. Other stores take it as their driver does.

    Args:
        uri: the place.
        path: the local file.
        owner_only: a local file that nobody but its owner may read, in a folder of the owner's where that is made for
            it; stores elsewhere have their own rules of access.

    Raises:
        StorageError: the file cannot be read, no space, no access, or the store does not answer.
    """
    target = local_path(uri)
    with named(str(path)):
        source = path.open("rb")
    with source, named(uri):
        if target is not None:
            with replacement(target, owner_only=owner_only) as file:
                shutil.copyfileobj(source, file, 2**20)
        elif protocol(uri) == "s3":
            size = os.fstat(source.fileno()).st_size
            if size <= SINGLE_PUT_BYTES:
                s3.put(uri, source.read())
            else:
                _put_in_parts(uri, source, size)
        else:
            fs = filesystem(uri)
            retrying(uri, lambda: fs.put_file(str(path), uri))


def _put_in_parts(uri: str, source: BinaryIO, size: int) -> None:
    part_bytes = max(PART_BYTES, -(-size // MOST_PARTS))
    upload_name = uuid.uuid4().hex
    upload_id = s3.start_upload(uri, upload_name)
    try:
        etags: list[str] = []
        while part := source.read(part_bytes):
            etags.append(s3.put_part(uri, upload_id, len(etags) + 1, part))
        s3.complete_upload(uri, upload_id, upload_name, etags)
    except BaseException:
        try:
            s3.abort_upload(uri, upload_id)
        except Exception as error:  # noqa: BLE001 - what went wrong first is the error to tell
            _log.warning("the parts of an upload stay at %s until they are swept: %r", uri, error)
        raise


def fetch_file(uri: str, folder: Path) -> Path:
    """A local file with the content of ``uri``: itself for a local place, else a copy that the caller removes.

    Args:
        uri: the file.
        folder: where a copy is put, under a name of its own that keeps the last two suffixes, such as ``.nii.gz``.

    Raises:
        PairError: as :func:`~tasks.storage.files.read_bytes` does.
        StorageError: ``folder`` cannot be written.
    """
    path = local_path(uri)
    if path is not None:
        stat_file(uri)
        return path
    target = folder / (uuid.uuid4().hex + "".join(PurePosixPath(uri).suffixes[-2:]))
    with named(str(folder)), replacement(target) as file:
        fetch_into(uri, file)
    return target


def fetch_into(uri: str, file: BinaryIO) -> None:
    """Write the content of ``uri``, which is not local, to a file that is open.

    Raises:
        PairError: as :func:`~tasks.storage.files.read_bytes` does.
        OSError: ``file`` cannot be written.
    """
    for part in _parts(uri):
        file.write(part)


def _parts(uri: str) -> Iterator[bytes]:
    """The content in order, asked for part by part, so that a cut costs one part."""
    try:
        size, version = _size_and_version(uri)
        for first in range(0, size, PART_BYTES):
            yield _range(uri, first, min(PART_BYTES, size - first), version)
    except Exception as error:
        raise pair_error(uri, error) from error


def _size_and_version(uri: str) -> tuple[int, str]:
    if protocol(uri) == "s3":
        found = s3.head(uri)
        return int(found["ContentLength"]), found["ETag"].strip('"')
    fs = filesystem(uri)
    info = retrying(uri, lambda: fs.info(uri))
    if info["type"] != "file":
        raise IsADirectoryError(uri)
    return int(info["size"]), ""


def _range(uri: str, first: int, count: int, version: str) -> bytes:
    if protocol(uri) == "s3":
        part, found = s3.get(uri, first, count)
    else:
        fs = filesystem(uri)
        part, found = retrying(uri, lambda: fs.cat_file(uri, start=first, end=first + count)), version
    if found != version or len(part) != count:
        raise OSError(errno.EBADMSG, "the file changed while it was read")
    return part
