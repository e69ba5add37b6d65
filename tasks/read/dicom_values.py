"""Values of DICOM attributes as plain Python values; what cannot be read is an error, never text or zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

from tasks.codes import Code, PairError


def values(dataset: Dataset, keyword: str, code: Code = Code.HEADER_INCOMPLETE) -> tuple[Any, ...]:
    """An attribute's values; empty if it is absent or empty.

    Raises:
        PairError: ``code``: its bytes are not what its type of value must be.
    """
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - any kind: pydicom converts values when looked at, and its messages quote them
        raise PairError(code, f"{keyword} cannot be read") from None
    if value is None or value == "":
        return ()
    return tuple(value) if isinstance(value, MultiValue | list | tuple) else (value,)


def text(dataset: Dataset, keyword: str) -> str:
    r"""An attribute as text, several values joined by ``\`` as in the file; "" if it is absent.

    Raises:
        PairError: HEADER_INCOMPLETE.
    """
    return "\\".join(str(value) for value in values(dataset, keyword)).strip(" \0")


def numbers(
    dataset: Dataset, keyword: str, count: int, code: Code = Code.HEADER_INCOMPLETE
) -> tuple[float, ...] | None:
    """An attribute of ``count`` finite numbers; None if it is absent or empty.

    Raises:
        PairError: ``code``: another count, or not finite numbers. (pydicom hands out text where a decimal string
            is none.)
    """
    found = values(dataset, keyword, code)
    if not found:
        return None
    try:
        converted = tuple(float(value) for value in found)
    except (TypeError, ValueError, OverflowError):
        raise PairError(code, f"{keyword} is not a number") from None
    if len(converted) != count or not all(math.isfinite(value) for value in converted):
        raise PairError(code, f"{keyword} has {len(converted)} values, or one that is not finite")
    return converted


def number(dataset: Dataset, keyword: str, code: Code = Code.HEADER_INCOMPLETE) -> float | None:
    """An attribute of one finite number; None if it is absent.

    Raises:
        PairError: ``code``.
    """
    found = numbers(dataset, keyword, 1, code)
    return found[0] if found else None


def integer(dataset: Dataset, keyword: str, code: Code = Code.HEADER_INCOMPLETE) -> int | None:
    """An attribute of one whole number; None if it is absent.

    Raises:
        PairError: ``code``.
    """
    found = number(dataset, keyword, code)
    if found is None:
        return None
    if found != int(found):
        raise PairError(code, f"{keyword} is not a whole number")
    return int(found)


def items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; empty if it is absent.

    Raises:
        PairError: HEADER_INCOMPLETE.
    """
    try:
        sequence = dataset.get(keyword)
        return list(sequence) if sequence is not None else []
    except Exception:  # noqa: BLE001 - as above; nesting without end is among it
        raise PairError(Code.HEADER_INCOMPLETE, f"{keyword} cannot be read") from None
