from __future__ import annotations

import pytest

from tasks.codes import Code, PairError
from tasks.storage import StorageError, join, read_start, write_atomic

CONTENT = bytes(range(256)) * 400


def check_starts(root: str) -> None:
    uri = join(root, "a b?#.bin")
    write_atomic(uri, CONTENT)
    for count in (1, 1000, len(CONTENT), len(CONTENT) + 1):
        assert read_start(uri, count) == CONTENT[:count]
    write_atomic(uri, b"")
    assert read_start(uri, 10) == b""
    with pytest.raises(PairError) as caught:
        read_start(join(root, "none.bin"), 10)
    assert caught.value.code == Code.MISSING_SOURCE
    with pytest.raises(ValueError, match="at least 1"):
        read_start(uri, 0)


def test_the_start_of_a_file(root: str) -> None:
    check_starts(root)


@pytest.mark.server
def test_the_start_of_an_object(s3_bucket: str) -> None:
    check_starts(f"{s3_bucket}/root")
    with pytest.raises(StorageError):
        read_start(f"{s3_bucket}-none/a.bin", 10)
