"""Single files: read with retries, whole or their start, and written so that no reader ever sees half of one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from tasks.storage import s3
from tasks.storage.errors import concerns_all, s3_code
from tasks.storage.explanations import named, pair_error, storage_error
from tasks.storage.paths import bucket_and_key, local_path, protocol
from tasks.storage.places import filesystem
from tasks.storage.retries import retrying
from tasks.storage.temporaries import replacement


def read_bytes(uri: str) -> bytes:
    """The whole file, for one pair's sake.

    What may pass is tried again: broken and refused connections, time-outs, server errors, answers cut short.

    Raises:
        PairError: MISSING_SOURCE (also for a folder), PERMISSION_DENIED, OUT_OF_MEMORY, READ_FAILED.
        StorageError: no other file of the store could be read either: credentials that ended, a bucket that is gone.
    """
    return _read_for_a_pair(uri, lambda: read_whole(uri))


def read_start(uri: str, count: int) -> bytes:
    """The first ``count`` bytes of the file, or all that it has, for one pair's sake; the rest is not transferred.

    Raises:
        ValueError: ``count`` is less than 1.
        PairError: as :func:`read_bytes`, like the retries.
        StorageError: likewise.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return _read_for_a_pair(uri, lambda: _start(uri, count))


def _read_for_a_pair(uri: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except Exception as error:
        if concerns_all(error):
            raise storage_error(uri, error) from error
        raise pair_error(uri, error) from error


def _start(uri: str, count: int) -> bytes:
    path = local_path(uri)
    if path is not None:
        return retrying(uri, lambda: _local_start(path, count))
    if protocol(uri) == "s3":
        try:
            return s3.get(uri, 0, count)[0]
        except OSError as error:
            if s3_code(error) == "InvalidRange":  # an empty object has no first byte
                return b""
            raise
    fs = filesystem(uri)
    content: bytes = retrying(uri, lambda: fs.cat_file(uri, start=0, end=count))
    return content


def _local_start(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def read_needed(uri: str) -> bytes:
    """The whole file, for the whole run's sake; retries as :func:`read_bytes` does.

    Raises:
        StorageError: it cannot be read.
    """
    with named(uri):
        return read_whole(uri)


def read_whole(uri: str) -> bytes:
    """The whole file, with retries.

    Raises:
        Exception: what the store raised at last.
    """
    path = local_path(uri)
    if path is not None:
        return retrying(uri, path.read_bytes)
    if protocol(uri) == "s3":
        return s3.get(uri)[0]
    fs = filesystem(uri)
    content: bytes = retrying(uri, lambda: fs.cat_file(uri))
    return content


def write_atomic(uri: str, data: bytes) -> None:
    """Write the file whole or not at all, in place of what was there; folders are made as needed.

    Locally under a hidden temporary name beside it, synced, then renamed; elsewhere in one put, with a checksum on
    S3. A kill leaves at most the temporary file, which no listing shows.

    Raises:
        StorageError: no space, no access, or the store does not answer.
    """
    path = local_path(uri)
    with named(uri):
        if path is not None:
            with replacement(path) as file:
                file.write(data)
        elif protocol(uri) == "s3":
            s3.put(uri, data)
        else:
            fs = filesystem(uri)
            retrying(uri, lambda: fs.pipe_file(uri, data))


def exists(uri: str) -> bool:
    """Whether there is a file or folder.

    Raises:
        StorageError: it cannot be told.
    """
    path = local_path(uri)
    with named(uri):
        if path is not None:
            return path.exists()
        if protocol(uri) == "s3":
            return _exists_on_s3(uri)
        fs = filesystem(uri)
        return bool(retrying(uri, lambda: fs.exists(uri)))


def _exists_on_s3(uri: str) -> bool:
    if bucket_and_key(uri)[1]:
        with contextlib.suppress(FileNotFoundError):
            s3.head(uri)
            return True
    try:
        return s3.has_objects(uri)
    except FileNotFoundError:
        return False


def remove(uri: str) -> None:
    """Remove a file; no error when there is none.

    Raises:
        StorageError: it cannot be removed.
    """
    path = local_path(uri)
    with named(uri), contextlib.suppress(FileNotFoundError):
        if path is not None:
            path.unlink()
        elif protocol(uri) == "s3":
            s3.delete(uri)
        else:
            fs = filesystem(uri)
            retrying(uri, lambda: fs.rm_file(uri))
