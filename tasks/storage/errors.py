"""What storage raises: one error for a place, and which errors of the stores may pass when asked again."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, Final

_TRANSIENT_NUMBERS: Final = frozenset(
    # s3fs gives EBUSY for 503 and SlowDown, EREMOTEIO for 500 and EIO for a status that it does not know;
    # the others are those of network file systems.
    {errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EAGAIN, errno.ESTALE,
     errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)  # fmt: skip
_TRANSIENT_NAMES: Final = frozenset(
    # Of aiohttp and botocore, by name: importing them takes half a second, which local archives should not pay.
    {"ClientConnectionError", "ClientPayloadError", "ConnectTimeoutError", "ContentLengthError",
     "EndpointConnectionError", "FlexibleChecksumError", "HTTPClientError", "IncompleteRead", "IncompleteReadError",
     "ProxyConnectionError", "ResponseParserError", "ResponseStreamingError"}
)  # fmt: skip
_TRANSIENT_CODES: Final = frozenset(
    # Of S3, with a status below 500: bytes damaged or lost on their way, and writers who met at one object.
    {"BadDigest", "ConditionalRequestConflict", "IncompleteBody", "OperationAborted", "RequestTimeout",
     "RequestLimitExceeded", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests",
     "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
)  # fmt: skip
_STORE_REFUSES: Final = frozenset(
    # Of S3: not this object but everything below is out of reach, by the same key or at all.
    {"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "NoSuchBucket", "RequestTimeTooSkewed",
     "SignatureDoesNotMatch", "TokenRefreshRequired"}
)  # fmt: skip
_NO_CREDENTIALS: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"})
_NOT_IMPLEMENTED: Final = 501


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
        self.advice = advice

    def about(self, place: str) -> StorageError:
        """An error about another place, for which this one was touched; without what was found, which may name it."""
        return StorageError(place, "a source of it cannot be reached", self.advice)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    response = s3_response(error)
    if response is not None:
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return (status >= 500 and status != _NOT_IMPLEMENTED) or s3_code(error) in _TRANSIENT_CODES
    if isinstance(error, ConnectionError | TimeoutError):  # fsspec's own time-out is a TimeoutError
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_NUMBERS:
        return True
    return is_named(error, _TRANSIENT_NAMES)


def may_pass(error: StorageError) -> bool:
    """Whether a place may be in reach again later, because what went wrong there was transient."""
    cause = error.__cause__
    return may_pass(cause) if isinstance(cause, StorageError) else cause is not None and is_transient(cause)


def s3_response(error: BaseException) -> Mapping[str, Any] | None:
    """The answer of an S3 server that became this error, None for errors of other origin."""
    for candidate in (error, error.__cause__):
        response = getattr(candidate, "response", None)
        if isinstance(response, Mapping):
            return response
    return None


def s3_code(error: BaseException) -> str:
    """The code in the answer of an S3 server, such as ``PreconditionFailed``; "" for errors of other origin."""
    response = s3_response(error)
    return "" if response is None else str(response.get("Error", {}).get("Code", ""))


def is_named(error: BaseException, names: frozenset[str]) -> bool:
    """Whether the error's class, or one that it derives from, has one of these names."""
    return not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def is_refusal(error: BaseException) -> bool:
    """Whether the store refuses these credentials, or none were found."""
    return isinstance(error, PermissionError) or is_named(error, _NO_CREDENTIALS)


def concerns_all(error: BaseException) -> bool:
    """Whether every other object of the store would fail alike: credentials that ended, a bucket that is gone."""
    return s3_code(error) in _STORE_REFUSES or is_named(error, _NO_CREDENTIALS)


def is_missing(error: BaseException) -> bool:
    """Whether there is no such file, and under this name cannot be one."""
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return True
    numbers = (errno.ELOOP, errno.ENAMETOOLONG)
    return (isinstance(error, OSError) and error.errno in numbers) or s3_code(error) == "InvalidObjectName"
