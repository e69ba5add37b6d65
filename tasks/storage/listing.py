"""What lies in a place: files one after the other in the order of their paths, however many they are.

Local places are served by the operating system directly: it lists faster than fsspec does, and hides no refused
folder. S3 is listed page by page, other stores folder by folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tasks.storage import s3
from tasks.storage.explanations import named, pair_error, storage_error
from tasks.storage.paths import absolute, bucket_and_key, local_path, protocol
from tasks.storage.places import filesystem
from tasks.storage.retries import retrying

OWN_FOLDER: Final = "_ddfm"
"""Where a destination keeps its runs and tables; never part of an archive."""

DANGLING: Final = "0-missing"
"""Fingerprint of a link to nothing."""

_TIME_KEYS: Final = ("mtime", "LastModified", "last_modified", "updated", "modified")
_VERSION_KEYS: Final = ("ETag", "etag", "md5Hash", *_TIME_KEYS)


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
        modified: when it was last written, in seconds since 1970 UTC by the store's clock (S3: whole
            seconds); 0 where a store keeps none.
    """

    uri: str
    relative: str
    size: int
    fingerprint: str
    modified: float = 0.0


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
    with named(root):
        yield from _list_s3(root) if protocol(root) == "s3" else _list_other(root)


def _list_local(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[StoredFile]:
    """``above`` identifies the folders that the walk stands in, by device and inode, to see links that go round."""
    names: list[str] = []
    with named(folder):
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
                raise storage_error(path, error) from error
            if Path(path).is_symlink():
                yield StoredFile(path, prefix + name, 0, DANGLING)
            continue  # or it was removed since the folder was listed
        if stat.S_ISREG(status.st_mode):
            yield _of_status(path, prefix + name, status)


def _of_status(path: str, relative: str, status: os.stat_result) -> StoredFile:
    return StoredFile(
        path, relative, status.st_size, f"{status.st_size}-{status.st_mtime_ns:x}", status.st_mtime_ns / 1e9
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _list_s3(root: str) -> Iterator[StoredFile]:
    _, key = bucket_and_key(root)
    start = len(key and key + "/")
    base = absolute(root)
    found_any = False
    for found in s3.objects(root):
        found_any = True
        relative = found["Key"][start:]
        if relative and relative[-1] != "/" and not _is_left_out(relative):
            yield StoredFile(
                f"{base}/{relative}",
                relative,
                int(found["Size"]),
                f"{found['Size']}-{found['ETag']}".replace('"', ""),
                _whole_seconds(found["LastModified"]),
            )
    if not found_any and key:
        s3.head(root)
        raise NotADirectoryError(root)


def _whole_seconds(time: datetime) -> float:
    # Servers list fractions, but tell none of a single object.
    return float(int(time.timestamp()))


def _is_left_out(relative: str) -> bool:
    return any(part.startswith(".") or part == OWN_FOLDER for part in relative.split("/"))


def _list_other(root: str) -> Iterator[StoredFile]:
    fs = filesystem(root)
    base = fs._strip_protocol(root)
    if not retrying(root, lambda: fs.isdir(root)):
        raise (NotADirectoryError if retrying(root, lambda: fs.exists(root)) else FileNotFoundError)(root)
    yield from _walk(fs, root, base, absolute(root), "")


def _walk(fs: Any, root: str, folder: str, base: str, prefix: str) -> Iterator[StoredFile]:
    """Folder by folder: fsspec's ``find`` holds a million files in gigabytes."""
    found: dict[str, Mapping[str, Any]] = {}
    for info in retrying(root, lambda: fs.ls(folder, detail=True)):
        name = info["name"].rstrip("/").rsplit("/", 1)[-1]
        # Some stores list a folder's own marker among its content.
        if name and not _is_left_out(name) and info["name"].strip("/") != folder.strip("/"):
            found[name + "/" if info["type"] == "directory" else name] = info
    for name in sorted(found):
        info = found.pop(name)
        if name[-1] == "/":
            yield from _walk(fs, root, info["name"], base, prefix + name)
        else:
            yield _of_info(fs, f"{base}/{prefix}{name}", prefix + name, info)


def _of_info(fs: Any, uri: str, relative: str, info: Mapping[str, Any]) -> StoredFile:
    size = int(info["size"])
    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), None)
    if version is None:
        version = hashlib.md5(retrying(uri, lambda: fs.cat_file(uri)), usedforsecurity=False).hexdigest()
    time = next((info[key] for key in _TIME_KEYS if info.get(key)), None)
    return StoredFile(uri, relative, size, f"{size}-{version}".replace('"', ""), _seconds(time))


def _seconds(time: object) -> float:
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return float(time) if isinstance(time, int | float) else 0.0


def list_names(folder: str) -> list[str]:
    """Sorted names of the files and folders right in ``folder``, hidden ones left out; none when it does not exist.

    Raises:
        StorageError: the folder cannot be read.
    """
    path = local_path(folder)
    with named(folder):
        try:
            if path is not None:
                with os.scandir(path) as entries:
                    names = {entry.name for entry in entries}
            elif protocol(folder) == "s3":
                names = set(s3.names(folder))
            else:
                fs = filesystem(folder)
                base = fs._strip_protocol(folder).strip("/")
                found = retrying(folder, lambda: fs.ls(folder, detail=False))
                names = {name.strip("/").rsplit("/", 1)[-1] for name in found if name.strip("/") != base}
        except FileNotFoundError:
            return []
    return sorted(name for name in names if not name.startswith("."))


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
            return _of_status(str(path), name, status)
        if protocol(uri) == "s3":
            found = s3.head(uri)
            size = int(found["ContentLength"])
            version = found["ETag"].strip('"')
            return StoredFile(uri, name, size, f"{size}-{version}", _whole_seconds(found["LastModified"]))
        fs = filesystem(uri)
        info = retrying(uri, lambda: fs.info(uri))
        if info["type"] != "file":
            raise IsADirectoryError(uri)
        return _of_info(fs, uri, name, info)
    except Exception as error:
        raise pair_error(uri, error) from error
