"""The pictures of a destination: where those of the rows lie now, and what bytes they have."""

from __future__ import annotations

import hashlib

from tasks.codes import PairError
from tasks.storage import join, local_path, read_bytes


def output_folder(dest: str, method: str) -> str:
    """The folder of the pictures of a method."""
    return join(dest, "fused", method)


def output_relative(dest: str, method: str, output_uri: str) -> str:
    """The path of a row's picture below :func:`output_folder`, also when the destination was moved since."""
    folder = output_folder(dest, method) + "/"
    if output_uri.startswith(folder):
        return output_uri[len(folder) :]
    return output_uri.partition(f"/fused/{method}/")[2] or output_uri


def output_sha256(uri: str) -> str:
    """The SHA-256 of a picture's bytes, in hexadecimal digits.

    Raises:
        PairError: it cannot be read.
    """
    path = local_path(uri)
    if path is not None and path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(read_bytes(uri)).hexdigest()


def has_sha256(uri: str, sha256: str) -> bool:
    """Whether a picture is there, can be read and has these bytes."""
    try:
        return output_sha256(uri) == sha256
    except PairError:
        return False
