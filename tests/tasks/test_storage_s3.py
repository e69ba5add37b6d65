from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.codes import Code, PairError
from tasks.storage import (
    StorageError,
    create_exclusive,
    exists,
    fetch_file,
    list_files,
    list_names,
    read_bytes,
    read_needed,
    read_versioned,
    remove,
    replace_if_unchanged,
    stat_file,
    sweep_temporaries,
    transfer,
    write_atomic,
    write_file,
)
from tasks.storage.errors import is_transient, s3_code
from tasks.storage.places import filesystem
from tests import servers

pytestmark = pytest.mark.server

RACERS = 16


def uploads_of(server: servers.S3Server, bucket: str) -> list[Any]:
    listed = server.client().list_multipart_uploads(Bucket=bucket.removeprefix("s3://"))
    return list(listed.get("Uploads", ()))


def test_keys_are_taken_as_they_are(s3_bucket: str) -> None:
    root = f"{s3_bucket}/root"
    names = ["a.png", "a?versionId=1.png", "b::c.png", "c %20#1?*[d].png", "d+e&f=g.png", "x//y.png", "ü/ß.png"]
    for name in names:
        write_atomic(f"{root}/{name}", name.encode())
    for name in (".hidden.png", "_ddfm/x.png", "sub/.git/x"):
        write_atomic(f"{root}/{name}", b"hidden")
    found = {file.relative: file for file in list_files(root)}
    assert list(found) == sorted(names)
    for name in names:
        assert read_bytes(found[name].uri) == name.encode()
        assert stat_file(found[name].uri).fingerprint == found[name].fingerprint
        assert stat_file(found[name].uri).modified == found[name].modified
    assert list_names(root) == sorted({name.split("/")[0] for name in names} | {"_ddfm", "sub"})


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a/index.html", "text/html"), ("x?y::z.png", "image/png"), ("a.parquet", "application/octet-stream")],
)
def test_a_browser_is_told_what_an_object_is(s3_bucket: str, s3_server: servers.S3Server, name: str, kind: str) -> None:
    write_atomic(f"{s3_bucket}/{name}", b"x")
    assert s3_server.client().head_object(Bucket=s3_bucket.removeprefix("s3://"), Key=name)["ContentType"] == kind


def test_times_are_those_of_the_server(s3_bucket: str) -> None:
    write_atomic(f"{s3_bucket}/a", b"x")
    assert abs(datetime.now(UTC).timestamp() - stat_file(f"{s3_bucket}/a").modified) < 10


def test_listing_goes_on_over_pages(s3_bucket: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: write_atomic(f"{s3_bucket}/x/{number:04}", b""), range(1100)))
    assert [file.relative for file in list_files(f"{s3_bucket}/x")] == [f"{number:04}" for number in range(1100)]
    assert len(list_names(f"{s3_bucket}/x")) == 1100
    assert list_names(s3_bucket) == ["x"]


def test_what_is_there_and_what_is_not(s3_bucket: str) -> None:
    assert list(list_files(s3_bucket)) == []
    write_atomic(f"{s3_bucket}/folder/a.png", b"x")
    for present in ("", "/folder", "/folder/", "/folder/a.png"):
        assert exists(s3_bucket + present)
    for absent in ("/fold", "/folder/a", "/folder/a.png/b"):
        assert not exists(s3_bucket + absent)
        assert list_names(s3_bucket + absent) == []
        with pytest.raises(StorageError, match="does not exist; check the bucket and the prefix"):
            list(list_files(s3_bucket + absent))
    with pytest.raises(StorageError, match="a file lies where a folder is needed"):
        list(list_files(f"{s3_bucket}/folder/a.png"))
    for missing in ("/none.png", "/folder", "/" + "n" * 2000, "/x\0y.png"):
        for call in (read_bytes, stat_file):
            with pytest.raises(PairError) as caught:
                call(s3_bucket + missing)
            assert caught.value.code == Code.MISSING_SOURCE
    remove(f"{s3_bucket}/folder/a.png")
    remove(f"{s3_bucket}/folder/a.png")
    assert not exists(f"{s3_bucket}/folder")


def test_the_server_verifies_what_it_is_given(s3_bucket: str) -> None:
    store = filesystem(s3_bucket)
    bucket = s3_bucket.removeprefix("s3://")
    wrong = "AAAAAAAAAAAAAAAAAAAAAA=="
    with pytest.raises(OSError) as refused:  # noqa: PT011 - told by its code
        store.call_s3("put_object", Bucket=bucket, Key="a", Body=b"damaged on its way", ContentMD5=wrong)
    assert s3_code(refused.value) == "BadDigest"
    assert is_transient(refused.value)
    assert not exists(f"{s3_bucket}/a")


# Large files


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of the smallest part that servers accept."""
    monkeypatch.setattr(transfer, "SINGLE_PUT_BYTES", 2**20)
    monkeypatch.setattr(transfer, "PART_BYTES", 5 * 2**20)
    return 5 * 2**20


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 5 * 2**20, 10 * 2**20, 11 * 2**20])
def test_files_of_any_size_arrive(
    s3_bucket: str, s3_server: servers.S3Server, tmp_path: Path, small_parts: int, size: int
) -> None:
    source = tmp_path / "a.nii.gz"
    source.write_bytes(os.urandom(size))
    uri = f"{s3_bucket}/sub/a.nii.gz"
    write_file(uri, source)
    assert stat_file(uri).size == size
    fetched = fetch_file(uri, tmp_path / "fetched")
    assert fetched.name.endswith(".nii.gz")
    assert fetched.read_bytes() == source.read_bytes()
    assert list((tmp_path / "fetched").iterdir()) == [fetched]
    assert uploads_of(s3_server, s3_bucket) == []


def test_an_upload_that_fails_leaves_no_parts(
    s3_bucket: str, s3_server: servers.S3Server, tmp_path: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.nii"
    source.write_bytes(os.urandom(3 * small_parts))
    put_part: Callable[..., str] = transfer.s3.put_part
    for failure in (PermissionError("no more"), KeyboardInterrupt()):

        def third_fails(uri: str, upload_id: str, number: int, data: bytes, failure: BaseException = failure) -> str:
            if number == 3:
                assert len(uploads_of(s3_server, s3_bucket)) == 1
                raise failure
            return put_part(uri, upload_id, number, data)

        monkeypatch.setattr(transfer.s3, "put_part", third_fails)
        with pytest.raises((StorageError, KeyboardInterrupt)):
            write_file(f"{s3_bucket}/a.nii", source)
        assert uploads_of(s3_server, s3_bucket) == []
        assert not exists(f"{s3_bucket}/a.nii")


def test_only_old_uploads_below_the_folder_are_swept(s3_bucket: str, s3_server: servers.S3Server) -> None:
    for name in ("out/a.nii", "out/sub/b.nii", "output/c.nii", "d.nii"):
        s3_server.client().create_multipart_upload(Bucket=s3_bucket.removeprefix("s3://"), Key=name)
    assert sweep_temporaries(f"{s3_bucket}/out") == 0
    time.sleep(1.1)
    assert sweep_temporaries(f"{s3_bucket}/out", upload_age_s=0) == 2
    assert sorted(upload["Key"] for upload in uploads_of(s3_server, s3_bucket)) == ["d.nii", "output/c.nii"]


def test_a_file_that_changes_while_it_is_fetched_is_refused(
    s3_bucket: str, tmp_path: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_bucket}/a.nii"
    write_atomic(uri, bytes(2 * small_parts))
    get: Callable[..., tuple[bytes, str]] = transfer.s3.get

    def replaced_after_the_first(uri: str, first: int, count: int) -> tuple[bytes, str]:
        if first:
            write_atomic(uri, os.urandom(2 * small_parts))
        return get(uri, first, count)

    monkeypatch.setattr(transfer.s3, "get", replaced_after_the_first)
    with pytest.raises(PairError) as caught:
        fetch_file(uri, tmp_path)
    assert caught.value.code == Code.READ_FAILED
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_cannot_be_fetched(s3_bucket: str, tmp_path: Path) -> None:
    with pytest.raises(PairError) as caught:
        fetch_file(f"{s3_bucket}/none.nii", tmp_path / "fetched")
    assert caught.value.code == Code.MISSING_SOURCE


# Conditional writes


def test_of_many_creators_one_wins(s3_bucket: str) -> None:
    uri = f"{s3_bucket}/lock"
    start = threading.Barrier(RACERS)

    def create(_: int) -> bytes | None:
        own = uuid.uuid4().bytes
        start.wait()
        return own if create_exclusive(uri, own) else None

    with ThreadPoolExecutor(RACERS) as pool:
        (winner,) = filter(None, pool.map(create, range(RACERS)))
    assert read_needed(uri) == winner


def test_of_many_replacers_one_wins(s3_bucket: str) -> None:
    uri = f"{s3_bucket}/lock"
    write_atomic(uri, b"before")
    found = read_versioned(uri)
    assert found is not None
    start = threading.Barrier(RACERS)

    def swap(_: int) -> bytes | None:
        own = uuid.uuid4().bytes
        start.wait()
        return own if replace_if_unchanged(uri, own, found[1]) else None

    with ThreadPoolExecutor(RACERS) as pool:
        (winner,) = filter(None, pool.map(swap, range(RACERS)))
    assert read_needed(uri) == winner
    assert not replace_if_unchanged(f"{s3_bucket}/none", b"x", found[1])
    assert read_versioned(f"{s3_bucket}/none") is None
