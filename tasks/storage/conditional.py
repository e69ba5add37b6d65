"""Writes that succeed only when nobody else wrote in between: what a lock is made of.

Local: a hard link for creation, and ``flock`` on a hidden file beside for replacement, which network file systems
carry from machine to machine where their mount says so (NFS does; Lustre with ``flock``, not ``localflock``).
S3: conditional puts, which the server decides. Other stores: safe among the threads of one process, best effort
beyond it.

The data of each call must be unlike that of any other writer, by a random id in it: a put whose answer was lost is
made again, and then recognises its own object by its bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tasks.storage import s3
from tasks.storage.errors import s3_code
from tasks.storage.explanations import named
from tasks.storage.files import read_whole, write_atomic
from tasks.storage.paths import local_path, protocol
from tasks.storage.temporaries import replacement, temporary_file

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_one_process = threading.Lock()


def read_versioned(uri: str) -> tuple[bytes, str] | None:
    """The content and its version, for :func:`replace_if_unchanged`; None where there is no file.

    Raises:
        StorageError: it cannot be read.
    """
    with named(uri):
        try:
            if protocol(uri) == "s3":
                return s3.get(uri)
            content = read_whole(uri)
        except FileNotFoundError as error:
            if s3_code(error) == "NoSuchBucket":
                raise
            return None
        return content, _version(content)


def create_exclusive(uri: str, data: bytes) -> bool:
    """Write the file if there is none, whole or not at all; whether it was written.

    Raises:
        StorageError: no space, no access, or the store does not answer.
    """
    path = local_path(uri)
    with named(uri):
        if path is not None:
            return _create_local(path, data)
        if protocol(uri) == "s3":
            return _put_if(uri, data, IfNoneMatch="*")
        with _one_process:
            if read_versioned(uri) is not None:
                return False
            write_atomic(uri, data)
            return True


def replace_if_unchanged(uri: str, data: bytes, version: str) -> bool:
    """Write the file if it still has this version, whole or not at all; whether it was written.

    Raises:
        StorageError: no space, no access, or the store does not answer.
    """
    path = local_path(uri)
    with named(uri):
        if path is not None:
            with _guarded(path):
                return _replace(uri, data, version)
        if protocol(uri) == "s3":
            # Ceph compares the header as it is with an ETag that it keeps without quotes; HTTP wants them.
            return _put_if(uri, data, IfMatch=version) or (
                _still_has(uri, version) and _put_if(uri, data, IfMatch=f'"{version}"')
            )
        with _one_process:
            return _replace(uri, data, version)


def _replace(uri: str, data: bytes, version: str) -> bool:
    found = read_versioned(uri)
    if found is None or found[1] != version:
        return False
    write_atomic(uri, data)
    return True


def _put_if(uri: str, data: bytes, **condition: str) -> bool:
    try:
        s3.put(uri, data, **condition)
    except OSError as error:
        if s3_code(error) == s3.NOT_MET:
            found = read_versioned(uri)
            return found is not None and found[0] == data
        if s3_code(error) == "NoSuchKey":  # AWS's answer to IfMatch where there is no object
            return False
        raise
    return True


def _still_has(uri: str, version: str) -> bool:
    found = read_versioned(uri)
    return found is not None and found[1] == version


def _create_local(path: Path, data: bytes) -> bool:
    with temporary_file(path.parent) as (temporary, file):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            # Over NFS the answer to our own link may have been lost, and the request made again.
            found = read_versioned(str(path))
            return found is not None and found[0] == data
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            return True
    with _guarded(path):
        if path.exists():
            return False
        with replacement(path) as file:
            file.write(data)
        return True


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Alone among the processes of all machines that see this file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file of its own, never removed: the lock of a file that is replaced is a lock of nothing.
    with (path.parent / f".{path.name}.guard").open("ab") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
