from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tasks import lock, lock_owner
from tasks.borrowed_lock import BorrowedLock, check_token
from tasks.lock import DestinationBusyError, LockLostError, LockRecord, hold, read_lock
from tasks.storage import StorageError, join, list_files, read_needed, write_atomic

RACERS = 16


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.server)])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        uri = f"memory://{uuid.uuid4().hex}"
        yield uri
        fsspec.filesystem("memory").rm(uri, recursive=True)
    else:
        yield str(tmp_path / "out") if request.param == "local" else join(request.getfixturevalue("s3_bucket"), "out")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.server)])
def shared_dest(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One that other processes see too."""
    return str(tmp_path / "out") if request.param == "local" else join(request.getfixturevalue("s3_bucket"), "out")


def record_of(dest: str) -> LockRecord:
    record = read_lock(dest)
    assert record is not None
    return record


def rewrite(dest: str, owner: dict[str, Any] | None = None, **fields: Any) -> None:
    """Change the lock's file as another machine would have written it."""
    uri = join(dest, "_ddfm", "lock.json")
    content = json.loads(read_needed(uri))
    content["owner"] |= owner or {}
    write_atomic(uri, json.dumps(content | fields).encode())


def leave(dest: str, owner: dict[str, Any] | None = None, **fields: Any) -> None:
    """A lock that was not given back."""
    with hold(dest):
        pass
    rewrite(dest, owner, released=False, **fields)


HOLDER = """
import sys, time
from tasks.lock import hold
with hold(sys.argv[1], heartbeat_s=0.1, stale_s=float(sys.argv[2]), takes_over_work=True) as lock:
    if sys.argv[3]:
        lock.serve(sys.argv[3], sys.argv[4])
    print(lock.token, flush=True)
    time.sleep(60)
"""


def start_holder(dest: str, stale_s: float = 60, run_id: str = "", sent_to: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, dest, str(stale_s), run_id, sent_to]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip().isdigit()
    return holder


def test_tokens_grow_with_each_holding(dest: str) -> None:
    assert read_lock(dest) is None
    for token in (1, 2, 3):
        with hold(dest) as held:
            assert held.token == token
            held.check()
            check_token(dest, token, "")
            record = record_of(dest)
            assert not record.released
            assert (record.owner.host, record.owner.pid) == (socket.gethostname(), os.getpid())
        assert record_of(dest).released
        with pytest.raises(LockLostError, match="gave its lock back"):
            check_token(dest, token, "")
    with pytest.raises(LockLostError, match="another run took it over from the one with token 1"):
        check_token(dest, 1, "")


def test_the_lock_is_no_part_of_an_archive(dest: str) -> None:
    with hold(dest):
        write_atomic(join(dest, "a.png"), b"x")
        assert [file.relative for file in list_files(dest)] == ["a.png"]


def test_a_second_holder_is_refused_at_once(dest: str) -> None:
    with hold(dest) as held:
        started = time.monotonic()
        with pytest.raises(DestinationBusyError) as refused, hold(dest):
            raise AssertionError("both hold it")
        assert time.monotonic() - started < 2
        held.check()
    assert f"process {os.getpid()} on {socket.gethostname()} has been writing there since 20" in str(refused.value)
    assert "--wait" in str(refused.value)


def test_waiting_ends_when_the_holder_does(dest: str) -> None:
    order: list[str] = []

    def second() -> int:
        with hold(dest, wait=True, poll_s=0.05) as held:
            order.append("second")
            return held.token

    with ThreadPoolExecutor(1) as pool:
        with hold(dest):
            waiting = pool.submit(second)
            time.sleep(0.5)
            order.append("first")
        assert waiting.result(timeout=20) == 2
    assert order == ["first", "second"]


def test_heartbeats_are_written_and_keep_a_waiter_out(dest: str) -> None:
    with hold(dest, heartbeat_s=0.1, stale_s=1) as held:
        before = record_of(dest).heartbeat
        with ThreadPoolExecutor(1) as pool:

            def second() -> bool:
                with hold(dest, wait=True, heartbeat_s=0.1, stale_s=1, poll_s=0.05):
                    return left.is_set()

            left = threading.Event()
            waiting = pool.submit(second)
            time.sleep(2.5)
            held.check()
            assert not waiting.done()
            assert record_of(dest).heartbeat > before + 3
            left.set()
            held.release()
            assert waiting.result(timeout=20)


def test_a_silent_holder_is_taken_over_and_notices(dest: str) -> None:
    with hold(dest, heartbeat_s=60, stale_s=180) as first:  # silent for the length of the test
        rewrite(dest, stale_s=0.5)
        started = time.monotonic()
        with hold(dest, wait=True, heartbeat_s=0.1, stale_s=0.5, poll_s=0.05) as second:
            assert time.monotonic() - started >= 0.5
            assert second.token == first.token + 1
            first._beat()
            with pytest.raises(LockLostError, match="another run took it over"):
                first.check()
            with pytest.raises(LockLostError):
                check_token(dest, first.token, "")
            second.check()
            first.release()
            second.check()
            assert record_of(dest).owner.id == second._record.owner.id
            assert not record_of(dest).released


def test_a_lost_lock_is_said_once(dest: str, caplog: pytest.LogCaptureFixture) -> None:
    with hold(dest, heartbeat_s=0.05, stale_s=60) as held:
        rewrite(dest, token=held.token + 1)
        time.sleep(0.5)
        with pytest.raises(LockLostError):
            held.check()
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "another run took it over from the one with token 1" in told
    assert told.endswith("The work ends before its next commit.")


def test_a_holder_without_heartbeats_gives_up_by_itself(dest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise StorageError(dest, "does not answer", "check the network")

    with hold(dest, heartbeat_s=0.05, stale_s=0.5) as held:
        with monkeypatch.context() as broken:
            broken.setattr(lock, "replace_if_unchanged", refuse)
            held.check()
            time.sleep(0.8)
            with pytest.raises(LockLostError, match=r"heartbeat could not be written for 0\.5 s; check the network"):
                held.check()
        held.check()  # it answers again and nobody had taken over


def test_a_machine_that_slept_finds_its_lock_again(dest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(dest) as held:
        monkeypatch.setattr(lock, "wakeful_seconds", lambda: time.monotonic() + 10**6)
        held.check()
        assert record_of(dest).heartbeat == 1


def test_a_heartbeat_that_arrives_late_does_not_lose_the_lock(dest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = lock.replace_if_unchanged
    late = iter([True])

    def with_a_late_one_before(uri: str, data: bytes, version: str) -> bool:
        if next(late, False):
            assert real(uri, data.replace(b'"heartbeat": 1', b'"heartbeat": 0.5'), version)
        return real(uri, data, version)

    with hold(dest) as held:
        monkeypatch.setattr(lock, "replace_if_unchanged", with_a_late_one_before)
        held._beat()
        held.check()
        assert record_of(dest).heartbeat == 1


def test_a_killed_holder_is_taken_over_at_once(shared_dest: str) -> None:
    holder = start_holder(shared_dest)
    with pytest.raises(DestinationBusyError, match=f"process {holder.pid} on"), hold(shared_dest):
        pass
    holder.send_signal(signal.SIGKILL)
    time.sleep(0.2)  # not reaped yet: a zombie is dead too
    started = time.monotonic()
    with hold(shared_dest) as held:
        assert time.monotonic() - started < 2
        assert held.token == 2
    holder.wait()


def die_serving(dest: str, run_id: str, sent_to: str) -> int:
    """A holder that said what it works on, and was killed; its token."""
    holder = start_holder(dest, run_id=run_id, sent_to=sent_to)
    holder.kill()
    holder.wait()
    return record_of(dest).token


def test_who_works_on_a_run_goes_on_when_its_holder_dies_and_the_next_one_resumes_the_run(shared_dest: str) -> None:
    assert die_serving(shared_dest, "run-a", "gpu") == 1
    child = BorrowedLock(shared_dest, 1, "run-a", every_s=0)
    other = BorrowedLock(shared_dest, 1, "run-b", every_s=0)
    child.check()
    # Twice, as a second parent may die as well.
    assert die_serving(shared_dest, "run-a", "gpu") == 2
    child.check()
    with pytest.raises(LockLostError, match="another run took it over from the one with token 1"):
        other.check()
    with hold(shared_dest, heartbeat_s=0.1, stale_s=1, takes_over_work=True) as third:
        assert third.token == 3
        child.check()
        third.serve("run-a", "gpu")
        third._beat()
        third.check()
        assert record_of(shared_dest).run_token == 1
        BorrowedLock(shared_dest, 2, "run-a").check()
        BorrowedLock(shared_dest, 3, "run-a").check()
        with pytest.raises(LockLostError):
            check_token(shared_dest, 4, "run-a")
        with pytest.raises(LockLostError):
            check_token(shared_dest, 2, "")
    with pytest.raises(LockLostError, match="gave its lock back"):
        child.check()
    # What ended is not taken up again, although the same run is.
    with hold(shared_dest, takes_over_work=True) as fourth:
        with pytest.raises(LockLostError):
            child.check()
        fourth.serve("run-a", "gpu")
        with pytest.raises(LockLostError):
            child.check()
        check_token(shared_dest, 4, "run-a")


@pytest.mark.parametrize(("run_id", "sent_to"), [("run-b", "gpu"), ("run-a", "cpu")])
def test_who_works_on_a_run_ends_when_the_next_holder_begins_another_or_sends_it_elsewhere(
    shared_dest: str, run_id: str, sent_to: str
) -> None:
    die_serving(shared_dest, "run-a", "gpu")
    child = BorrowedLock(shared_dest, 1, "run-a", every_s=0)
    with hold(shared_dest, takes_over_work=True) as second:
        child.check()
        second.serve(run_id, sent_to)
        with pytest.raises(LockLostError, match="another run took it over"):
            child.check()
        check_token(shared_dest, second.token, run_id)
        # Nor does it come back with the run itself.
        second.serve("run-a", "gpu")
        with pytest.raises(LockLostError):
            child.check()


def test_who_works_on_a_run_ends_when_the_next_holder_does_its_own_work(shared_dest: str) -> None:
    die_serving(shared_dest, "run-a", "gpu")
    with hold(shared_dest), pytest.raises(LockLostError):
        check_token(shared_dest, 1, "run-a")


def test_a_holder_that_lost_the_lock_serves_nothing(dest: str) -> None:
    with hold(dest, heartbeat_s=60, stale_s=180) as first:
        rewrite(dest, token=7)
        with pytest.raises(LockLostError, match="another run took it over"):
            first.serve("run-a", "gpu")
    assert record_of(dest).run_id == ""


def test_heartbeats_keep_what_is_served(dest: str) -> None:
    with hold(dest, heartbeat_s=0.005, stale_s=60) as held, ThreadPoolExecutor(4) as pool:
        for number in range(20):
            done = [pool.submit(held._beat) for _ in range(3)]
            held.serve(f"run-{number}", "gpu")
            for future in done:
                future.result(timeout=20)
            assert record_of(dest).run_id == f"run-{number}"
        held.check()


def test_a_lock_of_an_earlier_version_is_taken_over_and_its_work_is_not(shared_dest: str) -> None:
    leave(shared_dest, {"pid": 2**22 + 1})
    uri = join(shared_dest, "_ddfm", "lock.json")
    content = json.loads(read_needed(uri))
    write_atomic(
        uri, json.dumps({name: content[name] for name in content if not name.startswith(("run_", "sent_"))}).encode()
    )
    check_token(shared_dest, 1, "run-a")
    with hold(shared_dest, takes_over_work=True) as second:
        assert second.token == 2
        with pytest.raises(LockLostError):
            check_token(shared_dest, 1, "run-a")
        second.serve("run-a", "gpu")
        with pytest.raises(LockLostError):
            check_token(shared_dest, 1, "run-a")


def test_fields_of_a_later_version_are_left_aside(dest: str) -> None:
    leave(dest, {"pid": 2**22 + 1}, of_later="x")
    with hold(dest) as held:
        assert held.token == 2


def test_a_stopped_holder_is_alive_until_it_is_silent_for_too_long(shared_dest: str) -> None:
    holder = start_holder(shared_dest, stale_s=1)
    holder.send_signal(signal.SIGSTOP)
    try:
        time.sleep(0.3)
        with pytest.raises(DestinationBusyError), hold(shared_dest, heartbeat_s=0.1, stale_s=1):
            pass
        with hold(shared_dest, wait=True, heartbeat_s=0.1, stale_s=1, poll_s=0.1) as held:
            holder.send_signal(signal.SIGCONT)
            time.sleep(0.5)
            held.check()
            assert held.token == 2
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize(
    ("owner", "is_dead"),
    [
        ({}, False),
        ({"pid": 2**22 + 1}, True),
        ({"process_started": 1}, True),  # another process has got its number
        ({"pid": 1, "process_started": 0}, True),
        ({"pid_namespace": "pid:[1]", "pid": 2**22 + 1}, False),  # a container's number says nothing here
        (
            {"boot_id": "earlier"},
            lock_owner._pid_namespace() == lock_owner._FIRST_PID_NAMESPACE and Path("/etc/machine-id").exists(),
        ),
        ({"boot_id": "earlier", "machine_id": "another of this name"}, False),
        ({"boot_id": "earlier", "host": "elsewhere"}, False),
        ({"boot_id": "", "pid": 2**22 + 1}, False),
        ({"boot_id": "earlier", "pid_namespace": "pid:[1]"}, False),
    ],
)
def test_only_the_certainly_dead_are_taken_over_at_once(tmp_path: Path, owner: dict[str, Any], is_dead: bool) -> None:
    leave(str(tmp_path), owner)
    if is_dead:
        with hold(str(tmp_path)) as held:
            assert held.token == 2
    else:
        with pytest.raises(DestinationBusyError), hold(str(tmp_path)):
            pass


def test_threads_that_race_for_a_lock_have_one_winner(dest: str) -> None:
    for round_ in range(3):
        start = threading.Barrier(RACERS)
        tried = threading.Barrier(RACERS)

        def race(start: threading.Barrier = start, tried: threading.Barrier = tried) -> int:
            start.wait()
            try:
                with hold(dest) as held:
                    tried.wait()
                    held.check()
                    return held.token
            except DestinationBusyError:
                tried.wait()
                return 0

        with ThreadPoolExecutor(RACERS) as pool:
            tokens = [future.result(timeout=60) for future in [pool.submit(race) for _ in range(RACERS)]]
        assert sorted(tokens) == [0] * (RACERS - 1) + [round_ + 1]


RACE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from tasks.lock import DestinationBusyError, hold
from tasks.storage import exists
dest, threads = sys.argv[1], int(sys.argv[2])
exists(dest)
tried = threading.Barrier(threads + 1)
over = threading.Event()
def race(_):
    try:
        with hold(dest) as lock:
            tried.wait()
            over.wait()
            lock.check()
            return lock.token
    except DestinationBusyError:
        tried.wait()
        return 0
with ThreadPoolExecutor(threads) as pool:
    print("ready", flush=True)
    sys.stdin.readline()
    racing = [pool.submit(race, number) for number in range(threads)]
    tried.wait()
    print("tried", flush=True)
    sys.stdin.readline()
    over.set()
    print(*[racer.result() for racer in racing], flush=True)
"""


@pytest.mark.parametrize("dead_before", [False, True])
def test_processes_that_race_for_a_lock_have_one_winner(shared_dest: str, dead_before: bool) -> None:
    if dead_before:
        leave(shared_dest, {"pid": 2**22 + 1})
    processes = 4  # of four threads each: starting an interpreter for each racer takes a minute
    command = [sys.executable, "-c", RACE, shared_dest, str(RACERS // processes)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]

    def heard(answer: str) -> None:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdin is not None
            assert racer.stdout.readline().strip() == answer
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()

    try:
        heard("ready")
        heard("tried")
        tokens = [int(token) for racer in racers for token in racer.communicate(timeout=60)[0].split()]
        assert sorted(tokens) == [0] * (RACERS - 1) + [1 + dead_before]
        assert record_of(shared_dest).released
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()


def test_a_file_that_is_no_lock_is_told(dest: str) -> None:
    for content in (b"", b"{}", b"[1]", b'{"owner": {}}'):
        write_atomic(join(dest, "_ddfm/lock.json"), content)
        with pytest.raises(StorageError, match=r"lock\.json: is not a lock .*; remove it if no run writes"), hold(dest):
            pass


def test_an_unreadable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match="a file lies where a folder is needed"), hold(str(tmp_path / "file")):
        pass


def test_too_short_a_silence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least three heartbeats"), hold(str(tmp_path), heartbeat_s=10, stale_s=20):
        pass
