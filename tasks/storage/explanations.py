"""What a store raised, as one sentence that a person can act on."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Final

from tasks.codes import Code, PairError
from tasks.storage.errors import StorageError, is_missing, is_named, is_refusal, is_transient, s3_code
from tasks.storage.paths import local_path, protocol
from tasks.storage.places import credentials_in_words, endpoint_in_words

_NO_SPACE_CODES: Final = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"})
_WRONG_REGION_CODES: Final = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "301"})


@contextlib.contextmanager
def named(uri: str) -> Iterator[None]:
    """Whatever is raised inside leaves as a StorageError about ``uri``, unless it is an error of ours already."""
    try:
        yield
    except (StorageError, PairError):
        raise
    except Exception as error:
        raise storage_error(uri, error) from error


def pair_error(uri: str, error: BaseException) -> PairError:
    """The row's error. Its detail holds no path: rows may have to keep names secret."""
    kind = type(error).__name__
    if "\0" in uri:
        return PairError(Code.MISSING_SOURCE, "its name holds a NUL, which no file's can")
    if isinstance(error, MemoryError):
        return PairError(Code.OUT_OF_MEMORY, "while reading")
    if is_missing(error):
        return PairError(Code.MISSING_SOURCE, kind)
    if is_refusal(error):
        return PairError(Code.PERMISSION_DENIED, kind)
    found = s3_code(error) or (isinstance(error, OSError) and error.errno and os.strerror(error.errno)) or ""
    told = f"{kind}: {found}" if found else kind
    return PairError(Code.READ_FAILED, f"{told} at the last of several tries" if is_transient(error) else told)


def storage_error(uri: str, error: BaseException) -> StorageError:
    """The place's error."""
    remote = local_path(uri) is None
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        # s3fs keeps the server's message, which some servers leave empty; the cause has its code.
        reason = error.strerror or s3_code(error) or (str(error.__cause__) if error.__cause__ else str(error))
    if isinstance(error, FileNotFoundError):
        place = "the bucket and the prefix" if remote else "the path, and that its disk is mounted"
        what = "its bucket does not exist" if s3_code(error) == "NoSuchBucket" else "does not exist"
        return StorageError(uri, what, f"check {place}")
    if isinstance(error, NotADirectoryError | FileExistsError):
        return StorageError(uri, "a file lies where a folder is needed", "give a folder, or move the file away")
    if isinstance(error, IsADirectoryError):
        return StorageError(uri, "a folder lies where a file is needed", "give a file, or move the folder away")
    if is_refusal(error):
        if protocol(uri) == "s3":
            return StorageError(uri, f"access was refused ({reason})", f"check {credentials_in_words(uri)}")
        rights = "the credentials of this store" if remote else "its permissions"
        return StorageError(uri, f"access was refused ({reason})", f"check {rights}")
    if s3_code(error) in _NO_SPACE_CODES or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return StorageError(uri, f"no space is left ({reason})", "make room, then run again")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return StorageError(uri, f"cannot be written ({reason})", "choose a destination that can")
    if s3_code(error) in _WRONG_REGION_CODES:
        return StorageError(uri, f"its bucket lies in another region ({reason})", "set the region of this place")
    if is_named(error, frozenset({"ProfileNotFound"})):
        return StorageError(uri, f"its credentials were not found ({error})", f"check {credentials_in_words(uri)}")
    if is_transient(error):
        where = endpoint_in_words(uri) if protocol(uri) == "s3" else "the server"
        return StorageError(
            uri, f"does not answer, although asked several times ({reason})", f"check the network and {where}"
        )
    return StorageError(uri, reason, "check the place, then run again")
