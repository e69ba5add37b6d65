"""What may be written of sources that name persons: keyed pseudonyms, and errors without the names in them.

In strict privacy nothing below the roots that the user gave is written in clear: keys, URIs and fingerprints become
HMAC-SHA256 values (RFC 2104) under a secret of the user's, the same in every run. Without the secret nobody can find
a name by trying all of them, as with a plain hash. The private table alone leads from a pseudonym to its files.
"""

from __future__ import annotations

import hmac
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tasks.codes import ConfigurationError, PairError
from tasks.job import SECRET_VARIABLE
from tasks.storage import StorageError

Result = TypeVar("Result")

SHORTEST_SECRET: Final = 16
_DIGITS: Final = 20
"""Hexadecimal digits of a pseudonym: 80 bits, so that a million keys never meet."""


@dataclass(frozen=True)
class Pseudonyms:
    """Makes pseudonyms under one secret; what it shows of itself never has the secret.

    Args:
        secret: at least ``SHORTEST_SECRET`` bytes.
    """

    secret: bytes = field(repr=False)

    def of(self, purpose: str, value: str) -> str:
        """The pseudonym of a value: lower-case hexadecimal digits; another purpose gives another one.

        ``value`` may be any text that Python can hold, also names of files that are not UTF-8.
        """
        message = f"{purpose}\0{value}".encode(errors="surrogateescape")
        return hmac.digest(self.secret, message, "sha256").hex()[:_DIGITS]


def secret_of_environment() -> bytes | None:
    """The secret in ``DDFM_PSEUDONYM_SECRET``, None where it is not set."""
    value = os.environ.get(SECRET_VARIABLE, "")
    return value.encode(errors="surrogateescape") or None


def make_pseudonyms(secret: bytes | None) -> Pseudonyms:
    """Check a secret.

    Raises:
        ConfigurationError: there is none, or it is too short to keep anything.
    """
    if not secret:
        raise ConfigurationError(
            f"privacy: strict needs a secret for its pseudonyms, and {SECRET_VARIABLE} is not set. Make one once, keep "
            f'it, and set it for every run: export {SECRET_VARIABLE}="$(openssl rand -hex 32)"; or name a Prefect '
            "Secret block in pseudonym_block. With privacy: off, paths and names are written in clear"
        )
    if len(secret) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"privacy: the secret of the pseudonyms has {len(secret)} bytes; give it {SHORTEST_SECRET} or more, such "
            "as the output of: openssl rand -hex 32"
        )
    return Pseudonyms(secret)


def without_names(strict: bool, place: str, call: Callable[[], Result]) -> Result:
    """What ``call`` returns; in strict privacy its errors leave without what they quote, which may name files.

    Configuration errors and rows' errors pass as they are: their texts hold no names by contract.

    Args:
        strict: whether anything is changed at all.
        place: what the errors are about instead, such as the root.
        call: the work.

    Raises:
        StorageError: for a StorageError, and for every unexpected error, with its type and its line of code.
    """
    if not strict:
        return call()
    try:
        return call()
    except (ConfigurationError, PairError):
        raise
    except StorageError as error:
        nameless = error.about(place)
    except Exception as error:  # noqa: BLE001 - its text is not for others' eyes
        nameless = StorageError(place, f"unexpected error {described(error)}", "please report it")
    # Out here, so that not even its context has the old error: servers and logs keep that, too.
    raise nameless


def described(error: BaseException) -> str:
    """An error by its type and the last line of this program's code that it passed, without its text."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in frame.filename]
    where = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
