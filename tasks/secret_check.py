"""Whether a destination was written under the same secret: under another one its whole archive would look new."""

from __future__ import annotations

from typing import Final

from tasks.codes import ConfigurationError
from tasks.privacy import Pseudonyms
from tasks.storage import OWN_FOLDER, exists, join, read_needed, write_atomic

_PURPOSE: Final = "secret"


def check_secret(dest: str, pseudonyms: Pseudonyms) -> None:
    """Compare with the destination's mark, or leave one where there is none; under the lock of the destination.

    The mark is a pseudonym itself: it tells nothing of the secret.

    Raises:
        ConfigurationError: the destination was written under another secret.
        StorageError: the mark cannot be read or written.
    """
    uri = join(dest, OWN_FOLDER, "secret-mark")
    mark = pseudonyms.of(_PURPOSE, "").encode()
    if not exists(uri):
        write_atomic(uri, mark)
    elif read_needed(uri) != mark:
        raise ConfigurationError(
            "privacy: the secret is not the one that this destination was written with, so that every pair would look "
            "new; set the old secret again, or choose another destination"
        )
