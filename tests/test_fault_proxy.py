from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.lock import DestinationBusyError, hold
from tasks.storage import (
    PlaceWithKeys,
    configure_places,
    create_exclusive,
    fetch_file,
    list_files,
    read_bytes,
    read_versioned,
    replace_if_unchanged,
    retries_made,
    stat_file,
    write_atomic,
    write_file,
)
from tests import servers
from tests.fault_proxy import Fault, FaultProxy, fault_proxy

pytestmark = pytest.mark.server

OBJECTS = 300


def through(proxy: FaultProxy, bucket: str, server: servers.S3Server, read_timeout_s: float = 2.0) -> None:
    fields = {
        "endpoint_url": proxy.endpoint_url,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "read_timeout_s": read_timeout_s,
    }
    configure_places({bucket: PlaceWithKeys.model_validate(fields)})


@pytest.fixture(autouse=True)
def nothing_configured() -> Iterator[None]:
    yield
    configure_places({})


@pytest.fixture
def quiet(s3_bucket: str, s3_server: servers.S3Server) -> Iterator[FaultProxy]:
    """A proxy that fails only where it is told to."""
    with fault_proxy(s3_server.endpoint_url, error_share=0, cut_share=0, stall_share=0, stall_s=8) as proxy:
        through(proxy, s3_bucket, s3_server)
        yield proxy


def test_every_object_arrives_whole_in_spite_of_faults(s3_bucket: str, s3_server: servers.S3Server) -> None:
    content = {f"{number:03}.bin": uuid.uuid4().bytes * (number * 3) for number in range(OBJECTS)}
    before = retries_made()
    shares = {"error_share": 0.10, "cut_share": 0.05, "stall_share": 0.01}
    with fault_proxy(s3_server.endpoint_url, seed=1, stall_s=8, **shares) as proxy:
        through(proxy, s3_bucket, s3_server)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda item: write_atomic(f"{s3_bucket}/{item[0]}", item[1]), content.items()))
            assert [file.relative for file in list_files(s3_bucket)] == sorted(content)
            read = dict(zip(content, pool.map(lambda name: read_bytes(f"{s3_bucket}/{name}"), content), strict=True))
        assert read == content
        faults = sum(proxy.counts[fault] for fault in Fault)
    assert all(proxy.counts[fault] for fault in Fault)
    repeated = proxy.counts["requests"] - (2 * OBJECTS + 1)
    # A busy machine may answer later than the time-out without any fault, and then it is asked again.
    assert faults <= repeated <= faults + OBJECTS // 20
    # aiohttp repeats by itself, uncounted, what a kept connection closed without any answer.
    assert faults - proxy.counts[Fault.CUT] <= retries_made() - before <= repeated


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_costs_one_request(quiet: FaultProxy, s3_bucket: str, fault: Fault) -> None:
    uri = f"{s3_bucket}/a"
    for method, call in (
        ("PUT", lambda: write_atomic(uri, b"content" * 1000)),
        ("GET", lambda: read_bytes(uri)),
        ("HEAD", lambda: stat_file(uri)),
        ("GET", lambda: list(list_files(s3_bucket))),
    ):
        quiet.next_faults.append((method, fault))
        before = quiet.counts["requests"]
        call()
        assert quiet.counts["requests"] - before == 2
        assert not quiet.next_faults
    assert read_bytes(uri) == b"content" * 1000


def test_a_creation_whose_answer_was_lost_knows_its_own(quiet: FaultProxy, s3_bucket: str) -> None:
    uri = f"{s3_bucket}/lock"
    quiet.next_faults.append(("PUT", Fault.LOST_ANSWER))
    assert create_exclusive(uri, b"mine")
    assert not create_exclusive(uri, b"theirs")
    found = read_versioned(uri)
    assert found is not None
    assert found[0] == b"mine"
    quiet.next_faults.append(("PUT", Fault.LOST_ANSWER))
    assert replace_if_unchanged(uri, b"mine again", found[1])
    assert not replace_if_unchanged(uri, b"theirs", found[1])
    assert read_bytes(uri) == b"mine again"


def test_a_race_for_a_lock_has_one_winner_in_spite_of_faults(s3_bucket: str, s3_server: servers.S3Server) -> None:
    racers = 8
    shares = {"error_share": 0.3, "cut_share": 0.1, "stall_share": 0.0}
    with fault_proxy(s3_server.endpoint_url, seed=2, **shares) as proxy:
        through(proxy, s3_bucket, s3_server)
        for round_ in range(3):
            tried = threading.Barrier(racers)

            def race(_: int, tried: threading.Barrier = tried) -> int:
                try:
                    with hold(s3_bucket, heartbeat_s=0.1, stale_s=30) as lock:
                        tried.wait()
                        lock.check()
                        return lock.token
                except DestinationBusyError:
                    tried.wait()
                    return 0

            with ThreadPoolExecutor(racers) as pool:
                tokens = list(pool.map(race, range(racers)))
            assert sorted(tokens) == [0] * (racers - 1) + [round_ + 1]
        assert proxy.counts[Fault.LOST_ANSWER] > 0


def test_large_files_pass_with_faults_in_every_part(
    quiet: FaultProxy, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.storage import transfer

    monkeypatch.setattr(transfer, "SINGLE_PUT_BYTES", 2**20)
    monkeypatch.setattr(transfer, "PART_BYTES", 5 * 2**20)
    source = tmp_path / "volume.nii.gz"
    source.write_bytes(uuid.uuid4().bytes * (12 * 2**16))
    methods = [("POST", Fault.CUT), ("PUT", Fault.ERROR), ("PUT", Fault.CUT), ("PUT", Fault.LOST_ANSWER)]
    quiet.next_faults.extend([*methods, ("POST", Fault.LOST_ANSWER)])
    write_file(f"{s3_bucket}/volume.nii.gz", source)
    assert not quiet.next_faults
    quiet.next_faults.extend([("HEAD", Fault.ERROR), ("GET", Fault.CUT), ("GET", Fault.STALL), ("GET", Fault.ERROR)])
    fetched = fetch_file(f"{s3_bucket}/volume.nii.gz", tmp_path / "fetched")
    assert not quiet.next_faults
    assert fetched.read_bytes() == source.read_bytes()


def test_a_stall_ends_after_the_time_out(quiet: FaultProxy, s3_bucket: str) -> None:
    write_atomic(f"{s3_bucket}/a", b"x" * 1000)
    quiet.next_faults.append(("GET", Fault.STALL))
    started = time.monotonic()
    assert read_bytes(f"{s3_bucket}/a") == b"x" * 1000
    assert 1.9 < time.monotonic() - started < 7.9
