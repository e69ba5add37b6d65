"""The requests that this program makes of S3 servers, each made again when its error may pass.

Keys are taken as they are: s3fs itself strips their last "/" and cuts them at ``?versionId=``, so only its connections
are used.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import mimetypes
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fsspec.asyn import sync

from tasks.storage.errors import s3_code
from tasks.storage.paths import bucket_and_key
from tasks.storage.places import filesystem
from tasks.storage.retries import retrying

NOT_MET: Final = "PreconditionFailed"
"""The code of a conditional request whose condition did not hold."""

LONGEST_KEY_BYTES: Final = 1024


class CutBodyError(ConnectionError):
    """An answer ended before the length that it announced."""


def head(uri: str) -> Mapping[str, Any]:
    """The object's ContentLength, ETag, LastModified and Metadata.

    Raises:
        FileNotFoundError: there is no such object; neither is a prefix one.
    """
    _check_key(uri)
    return _request(uri, "head_object")


def get(uri: str, first: int = 0, count: int | None = None) -> tuple[bytes, str]:
    """The object's bytes and ETag: all of them, or ``count`` bytes from ``first`` on.

    Raises:
        FileNotFoundError: there is no such object.
        OSError: the server refused, or did not answer.
    """
    _check_key(uri)
    store = filesystem(uri)
    bucket, key = bucket_and_key(uri)
    span = {} if count is None else {"Range": f"bytes={first}-{first + count - 1}"}

    async def body() -> tuple[bytes, str]:
        answer = await store._call_s3("get_object", Bucket=bucket, Key=key, **span)
        try:
            content: bytes = await answer["Body"].read()
        finally:
            answer["Body"].close()
        if len(content) != answer["ContentLength"]:
            raise CutBodyError(f"{len(content)} of {answer['ContentLength']} bytes")
        return content, answer["ETag"].strip('"')

    answer: tuple[bytes, str] = retrying(uri, lambda: sync(store.loop, body))
    return answer


def put(uri: str, data: bytes, **conditions: str) -> None:
    """Put the object whole; the server verifies its MD5. Its type goes by its name, so that browsers show it.

    Args:
        conditions: IfNoneMatch or IfMatch.

    Raises:
        OSError: with :data:`NOT_MET` as its :func:`~tasks.storage.errors.s3_code` where a condition did not hold.
    """
    kind = mimetypes.guess_type(bucket_and_key(uri)[1])[0] or "application/octet-stream"
    _request(uri, "put_object", Body=data, ContentMD5=_md5(data), ContentType=kind, **conditions)


def delete(uri: str) -> None:
    """Delete the object, if there is one."""
    _request(uri, "delete_object")


def objects(root: str) -> Iterator[Mapping[str, Any]]:
    """All objects below ``root`` in the order of their keys, page by page: Key, Size, ETag, LastModified."""
    for page in _pages(root, "list_objects_v2"):
        yield from page.get("Contents", ())


def names(folder: str) -> Iterator[str]:
    """The last part of the keys and common prefixes right below ``folder``."""
    for page in _pages(folder, "list_objects_v2", Delimiter="/"):
        found = [entry["Key"] for entry in page.get("Contents", ())]
        found += [entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", ())]
        yield from (key.rsplit("/", 1)[-1] for key in found if not key.endswith("/"))


def has_objects(folder: str) -> bool:
    """Whether a key begins with the folder's; for a whole bucket, whether it exists.

    Raises:
        FileNotFoundError: there is no such bucket.
    """
    _, key = bucket_and_key(folder)
    prefix = key and key + "/"
    return bool(_request(folder, "list_objects_v2", Key=None, Prefix=prefix, MaxKeys=1).get("KeyCount")) or not key


def _pages(root: str, operation: str, **parameters: str) -> Iterator[Mapping[str, Any]]:
    _, key = bucket_and_key(root)
    request: dict[str, Any] = {"Key": None, "Prefix": key and key + "/", **parameters}
    while True:
        page = _request(root, operation, **request)
        yield page
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


# Multipart uploads


def start_upload(uri: str, upload_name: str) -> str:
    """Begin a multipart upload; its id. The object will carry ``upload_name`` in its metadata."""
    return str(_request(uri, "create_multipart_upload", Metadata={"ddfm-upload": upload_name})["UploadId"])


def put_part(uri: str, upload_id: str, number: int, data: bytes) -> str:
    """Put part ``number``, counted from 1; its ETag. The server verifies its MD5."""
    parameters = {"UploadId": upload_id, "PartNumber": number, "Body": data, "ContentMD5": _md5(data)}
    return str(_request(uri, "upload_part", **parameters)["ETag"])


def complete_upload(uri: str, upload_id: str, upload_name: str, etags: list[str]) -> None:
    """Make the parts one object. When the answer to it was lost, the object tells that it succeeded."""
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    try:
        _request(uri, "complete_multipart_upload", UploadId=upload_id, MultipartUpload={"Parts": parts})
    except FileNotFoundError as error:
        if s3_code(error) != "NoSuchUpload" or head(uri).get("Metadata", {}).get("ddfm-upload") != upload_name:
            raise


def abort_upload(uri: str, upload_id: str) -> None:
    """Drop the upload and its parts, if it is still there."""
    try:
        _request(uri, "abort_multipart_upload", UploadId=upload_id)
    except FileNotFoundError:
        return


def uploads(folder: str) -> Iterator[Mapping[str, Any]]:
    """Multipart uploads below ``folder`` that were begun and not completed: Key, UploadId, Initiated."""
    _, key = bucket_and_key(folder)
    request: dict[str, Any] = {"Key": None, "Prefix": key and key + "/"}
    while True:
        page = _request(folder, "list_multipart_uploads", **request)
        yield from page.get("Uploads", ())
        if not page.get("IsTruncated"):
            return
        request |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _request(uri: str, operation: str, **parameters: Any) -> Mapping[str, Any]:
    store = filesystem(uri)
    bucket, key = bucket_and_key(uri)
    request = {"Bucket": bucket, "Key": key, **parameters}
    if request["Key"] is None:
        del request["Key"]
    answer: Mapping[str, Any] = retrying(uri, lambda: store.call_s3(operation, **request))
    return answer


def _check_key(uri: str) -> None:
    # Servers answer such names with what reads like a passing error, or to a HEAD with no word at all.
    _, key = bucket_and_key(uri)
    if "\0" in key or len(key.encode(errors="surrogateescape")) > LONGEST_KEY_BYTES:
        raise FileNotFoundError(errno.ENOENT, "no object can have this name", uri)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
