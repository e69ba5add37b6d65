"""Files on any fsspec URL: list them, read with retries, write so that no reader ever sees half a file.

A place is a plain path or ``protocol://path``; ``file``, ``memory`` and ``s3`` are what this program is tested with.
Names are taken literally: nothing is percent-decoded, expanded as a pattern, or chained at ``::``, all of which
are legal in a file's name. Local places are served by the operating system directly: it lists faster than fsspec
does, and hides no refused folder.

Credentials and endpoint of S3 come from the environment, where botocore finds them: ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, and ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import random
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec

from tasks.codes import Code, PairError

OWN_FOLDER: Final = "_ddfm"
"""Where a destination keeps its runs and tables; never part of an archive."""

DANGLING: Final = "0-missing"
"""Fingerprint of a link to nothing."""

TRIES: Final = 4
BACK_OFF_S: Final = 0.5
"""Seconds before the second try, doubled for each further one; 50 to 100 % of it are waited."""

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_TRANSIENT_NUMBERS: Final = frozenset(
    # s3fs gives EBUSY for 503 and SlowDown, EREMOTEIO for 500 and EIO for a status that it does not know;
    # the others are those of network file systems.
    {errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EAGAIN, errno.ESTALE,
     errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)  # fmt: skip
_TRANSIENT_NAMES: Final = frozenset(
    # Of aiohttp and botocore, by name: importing them takes half a second, which local archives should not pay.
    {"ClientConnectionError", "ClientPayloadError", "ConnectTimeoutError", "EndpointConnectionError",
     "FlexibleChecksumError", "HTTPClientError", "IncompleteReadError", "ResponseParserError"}
)  # fmt: skip
_NO_CREDENTIALS: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})
_VERSION_KEYS: Final = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified")

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class StorageError(Exception):
    """A place cannot be listed, read or written; the run cannot go on without it.

    Args:
        uri: the place.
        problem: what happened.
        advice: what to do about it.
    """

    def __init__(self, uri: str, problem: str, advice: str) -> None:
        super().__init__(f"{uri}: {problem}; {advice}.")
        self.uri = uri


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of an archive.

    Attributes:
        uri: absolute path or URL.
        relative: path below the listed folder, with "/" between its parts.
        size: bytes.
        fingerprint: ``<size>-<version>``, the version being the modification time (local, nanoseconds in
            hexadecimal), the ETag (S3), or the MD5 of the bytes (stores that keep neither, such as ``memory``).
            It differs when the file does, unless size and time were both forged; equal content may differ in it.
    """

    uri: str
    relative: str
    size: int
    fingerprint: str


def local_path(uri: str) -> Path | None:
    """The absolute path of a local place, None for places elsewhere."""
    scheme = _URL.match(uri)
    if scheme is None:
        path = Path(uri)
        return (path.expanduser() if path.parts[:1] == ("~",) else path).absolute()
    if scheme[1] in ("file", "local"):
        return Path(uri[scheme.end() :]).absolute()
    return None


def absolute(uri: str) -> str:
    """The place as any process can find it, without trailing "/"."""
    path = local_path(uri)
    return str(path) if path is not None else join(uri)


def join(root: str, *parts: str) -> str:
    """``root`` and ``parts`` with single "/" between them; nothing is quoted and no ".." resolved."""
    scheme = _URL.match(root)
    start = scheme.end() if scheme else 0
    head, rest = root[:start], root[start:]
    tail = "/".join(filter(None, (part.strip("/") for part in parts)))
    folder = rest.rstrip("/")
    if not tail:
        return head + (folder or rest[:1])
    return head + (f"{folder}/{tail}" if rest else tail)


# Listing


def list_files(root: str) -> Iterator[StoredFile]:
    """All files below ``root`` in the order of their relative paths, without hidden ones and ``_ddfm`` folders.

    Links are followed, a link to a folder above itself once. A link to nothing is listed, with size 0 and the
    fingerprint ``DANGLING``; pipes, sockets and devices are not.

    Raises:
        StorageError: while iterating: ``root`` does not exist, or it or any folder below cannot be read.
    """
    path = local_path(root)
    if path is not None:
        yield from _list_local(str(path), "", ())
        return
    fs = _filesystem(root)
    found_any = False
    with _named(root):
        listing = _s3_objects(fs, root) if _protocol(root) == "s3" else _fsspec_files(fs, root)
        for relative, info in listing:
            found_any = True
            if relative and relative[-1] != "/" and not _is_left_out(relative):
                size = int(info["size"] if "size" in info else info["Size"])
                uri = f"{absolute(root)}/{relative}"
                yield StoredFile(uri, relative, size, _fingerprint(fs, uri, size, info))
        if not found_any and not _retrying(lambda: fs.exists(root)):
            raise FileNotFoundError(root)


def _is_left_out(relative: str) -> bool:
    return any(part.startswith(".") or part == OWN_FOLDER for part in relative.split("/"))


def _list_local(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[StoredFile]:
    """``above`` identifies the folders that the walk stands in, by device and inode, to see links that go round."""
    names: list[str] = []
    with _named(folder):
        status = os.stat(folder)  # noqa: PTH116 - a Path for each of a million files takes longer than the calls
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not _is_folder(entry):
                    names.append(entry.name)
                elif entry.name != OWN_FOLDER:
                    # With its slash a folder sorts among the files as its content's paths do.
                    names.append(entry.name + "/")
    names.sort()
    for name in names:
        path = f"{folder}/{name}"
        if name[-1] == "/":
            yield from _list_local(path[:-1], prefix + name, (*above, here))
            continue
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise _storage_error(path, error) from error
            if Path(path).is_symlink():
                yield StoredFile(path, prefix + name, 0, DANGLING)
            continue  # or it was removed since the folder was listed
        if stat.S_ISREG(status.st_mode):
            size = status.st_size
            yield StoredFile(path, prefix + name, size, f"{size}-{status.st_mtime_ns:x}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _s3_objects(fs: Any, root: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(relative path, object) page by page: s3fs's ``find`` holds a million objects in gigabytes."""
    bucket, _, prefix = join(root).split("://", 1)[1].partition("/")
    prefix = prefix and prefix + "/"
    request = {"Bucket": bucket, "Prefix": prefix}
    while True:
        page = _retrying(lambda: fs.call_s3("list_objects_v2", **request))
        for found in page.get("Contents", ()):
            yield found["Key"][len(prefix) :], found
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _fsspec_files(fs: Any, root: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    base = fs._strip_protocol(root)
    found = _retrying(lambda: fs.find(root, detail=True))
    if base in found:
        raise NotADirectoryError(root)
    for name in sorted(found):
        yield name[len(base) :].lstrip("/"), found[name]


def _fingerprint(fs: Any, uri: str, size: int, info: Mapping[str, Any]) -> str:
    for key in _VERSION_KEYS:
        if info.get(key):
            return f"{size}-{info[key]}".replace('"', "")
    content = _retrying(lambda: fs.cat_file(uri))
    return f"{size}-{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


def list_names(folder: str) -> list[str]:
    """Sorted names of the files and folders right in ``folder``, hidden ones left out; none when it does not exist.

    Raises:
        StorageError: the folder cannot be read.
    """
    path = local_path(folder)
    with _named(folder):
        try:
            if path is not None:
                with os.scandir(path) as entries:
                    names = [entry.name for entry in entries]
            else:
                fs = _filesystem(folder)
                base = fs._strip_protocol(folder).strip("/")
                found = _retrying(lambda: fs.ls(folder, detail=False))
                names = [name.strip("/").rsplit("/", 1)[-1] for name in found if name.strip("/") != base]
        except FileNotFoundError:
            return []
    return sorted(name for name in names if not name.startswith("."))


# Files


def stat_file(uri: str) -> StoredFile:
    """One file; ``relative`` is its name.

    Raises:
        PairError: MISSING_SOURCE (also for a folder), PERMISSION_DENIED, READ_FAILED.
    """
    path = local_path(uri)
    name = uri.rsplit("/", 1)[-1]
    try:
        if path is not None:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise IsADirectoryError(uri)
            return StoredFile(str(path), name, status.st_size, f"{status.st_size}-{status.st_mtime_ns:x}")
        fs = _filesystem(uri)
        info = _retrying(lambda: fs.info(uri))
        if info["type"] != "file":
            raise IsADirectoryError(uri)
        size = int(info["size"])
        return StoredFile(uri, name, size, _fingerprint(fs, uri, size, info))
    except Exception as error:
        raise _pair_error(uri, error) from error


def read_bytes(uri: str) -> bytes:
    """The whole file, for one pair's sake.

    What may pass is tried again, ``TRIES`` times in all: broken and refused connections, time-outs, server errors.

    Raises:
        PairError: MISSING_SOURCE (also for a folder), PERMISSION_DENIED, OUT_OF_MEMORY, READ_FAILED.
    """
    try:
        return _read(uri)
    except Exception as error:
        raise _pair_error(uri, error) from error


def read_needed(uri: str) -> bytes:
    """The whole file, for the whole run's sake; retries as :func:`read_bytes` does.

    Raises:
        StorageError: it cannot be read.
    """
    with _named(uri):
        return _read(uri)


def _read(uri: str) -> bytes:
    path = local_path(uri)
    if path is not None:
        return _retrying(path.read_bytes)
    fs = _filesystem(uri)
    # One request instead of two: s3fs else asks for the size first, to split objects beyond 50 MB.
    options = {"max_concurrency": 1} if _protocol(uri) == "s3" else {}
    content: bytes = _retrying(lambda: fs.cat_file(uri, **options))
    return content


def write_atomic(uri: str, data: bytes) -> None:
    """Write the file whole or not at all, in place of what was there; folders are made as needed.

    Locally under a hidden temporary name beside it, synced, then renamed; elsewhere in one put. A kill leaves at
    most the temporary file, which no listing shows. The folder itself is not synced: a rename that a power cut
    takes back costs work done again, and renames of one file system come back in their order.

    Raises:
        StorageError: no space, no access, or the store does not answer.
    """
    path = local_path(uri)
    with _named(uri):
        if path is None:
            fs = _filesystem(uri)
            _retrying(lambda: fs.pipe_file(uri, data))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not derived from the name, which may have the full 255 bytes.
        temporary = path.parent / f".ddfm-{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def exists(uri: str) -> bool:
    """Whether there is a file or folder.

    Raises:
        StorageError: it cannot be told.
    """
    path = local_path(uri)
    with _named(uri):
        if path is not None:
            return path.exists()
        fs = _filesystem(uri)
        return bool(_retrying(lambda: fs.exists(uri)))


def remove(uri: str) -> None:
    """Remove a file; no error when there is none.

    Raises:
        StorageError: it cannot be removed.
    """
    path = local_path(uri)
    with _named(uri), contextlib.suppress(FileNotFoundError):
        if path is not None:
            path.unlink()
        else:
            fs = _filesystem(uri)
            _retrying(lambda: fs.rm_file(uri))


# Stores and their errors


def _protocol(uri: str) -> str:
    scheme = _URL.match(uri)
    return "s3" if scheme and scheme[1] == "s3a" else scheme[1] if scheme else "file"


def _filesystem(uri: str) -> Any:
    """fsspec's instance for the store; one per process for those with connections."""
    # A cached listing would hide what other processes wrote.
    options: dict[str, Any] = {"use_listings_cache": False}
    if _protocol(uri) == "s3":
        # botocore's own tries multiply with those here: a server that is down would hold each read for half a minute.
        options["config_kwargs"] = {
            "max_pool_connections": 32,
            "retries": {"mode": "standard", "total_max_attempts": 2},
        }
    try:
        return fsspec.filesystem(_protocol(uri), **options)
    except (ValueError, ImportError) as error:
        raise StorageError(uri, str(error), "use a path, s3://..., or install the driver of this protocol") from error


def _retrying(call: Callable[[], _T]) -> _T:
    for attempt in range(TRIES - 1):
        try:
            return call()
        except Exception as error:
            if not _is_transient(error):
                raise
            _log.debug("attempt %d of %d: %r", attempt + 1, TRIES, error)
            time.sleep(BACK_OFF_S * 2**attempt * random.uniform(0.5, 1))  # noqa: S311 - spreads retries, no secret
    return call()


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):  # fsspec's own time-out is a TimeoutError
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_NUMBERS:
        return True
    return _is_named(error, _TRANSIENT_NAMES)


def _is_named(error: BaseException, names: frozenset[str]) -> bool:
    return not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _is_missing(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or (
        isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENAMETOOLONG)
    )


def _pair_error(uri: str, error: BaseException) -> PairError:
    """The row's error. Its detail holds no path: rows may have to keep names secret."""
    kind = type(error).__name__
    if "\0" in uri:
        return PairError(Code.MISSING_SOURCE, "its name holds a NUL, which no file's can")
    if isinstance(error, MemoryError):
        return PairError(Code.OUT_OF_MEMORY, "while reading")
    if _is_missing(error):
        return PairError(Code.MISSING_SOURCE, kind)
    if isinstance(error, PermissionError) or _is_named(error, _NO_CREDENTIALS):
        return PairError(Code.PERMISSION_DENIED, kind)
    _log.warning("reading %s: %r", uri, error)
    return PairError(Code.READ_FAILED, f"{kind} at the last of {TRIES} tries" if _is_transient(error) else kind)


@contextlib.contextmanager
def _named(uri: str) -> Iterator[None]:
    """Whatever is raised inside leaves as a StorageError about ``uri``."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise _storage_error(uri, error) from error


def _storage_error(uri: str, error: BaseException) -> StorageError:
    remote = local_path(uri) is None
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        # s3fs keeps the server's message, which some servers leave empty; the cause has its code.
        reason = error.strerror or (str(error.__cause__) if error.__cause__ else str(error))
    if isinstance(error, FileNotFoundError):
        place = "the bucket and the prefix" if remote else "the path, and that its disk is mounted"
        return StorageError(uri, "does not exist", f"check {place}")
    if isinstance(error, NotADirectoryError | FileExistsError):
        return StorageError(uri, "a file lies where a folder is needed", "give a folder, or move the file away")
    if isinstance(error, IsADirectoryError):
        return StorageError(uri, "a folder lies where a file is needed", "give a file, or move the folder away")
    if isinstance(error, PermissionError) or _is_named(error, _NO_CREDENTIALS):
        rights = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights of that key" if remote else "its permissions"
        return StorageError(uri, f"access was refused ({reason})", f"check {rights}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(uri, f"no space is left ({reason})", "make room, then run again")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return StorageError(uri, f"cannot be written ({reason})", "choose a destination that can")
    if _is_transient(error):
        return StorageError(uri, f"no answer in {TRIES} tries ({reason})", "check network and server, then run again")
    return StorageError(uri, reason, "check the place, then run again")
