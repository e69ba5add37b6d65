from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.memory import MemoryFileSystem

from tasks.codes import Code, PairError
from tasks.storage import (
    DANGLING,
    StorageError,
    absolute,
    create_exclusive,
    exists,
    fetch_file,
    join,
    list_files,
    list_names,
    read_bytes,
    read_needed,
    read_versioned,
    remove,
    replace_if_unchanged,
    retries,
    retries_made,
    stat_file,
    sweep_temporaries,
    write_atomic,
    write_file,
)

NOBODY = 65534


@pytest.fixture(params=["path", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        uri = f"memory://{uuid.uuid4().hex}"
        yield uri
        if fsspec.filesystem("memory").exists(uri):
            fsspec.filesystem("memory").rm(uri, recursive=True)
    else:
        yield str(tmp_path / "root") if request.param == "path" else f"file://{tmp_path}/root"


def as_nobody(code: str, *arguments: str) -> str:
    """Run ``code`` as a user without rights: root may read everything, so it cannot test refusals."""
    prelude = f"import os, sys; sys.path.insert(0, {os.getcwd()!r})\n"  # noqa: PTH109
    prelude += "from tasks.storage import *; from tasks.codes import PairError\n"
    prelude += f"os.setegid({NOBODY}); os.seteuid({NOBODY})\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")


# Names


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("a", "b", "c.png"), "a/b/c.png"),
        (("/a/", "b/", "/c.png"), "/a/b/c.png"),
        (("/", "a"), "/a"),
        (("", "a"), "a"),
        (("a//", "", "b"), "a/b"),
        (("s3://bucket/", "x"), "s3://bucket/x"),
        (("s3://bucket/pre fix/", "ü #1?.png"), "s3://bucket/pre fix/ü #1?.png"),
        (("memory://", "a"), "memory://a"),
        (("memory:///", "a"), "memory:///a"),
        (("file:///", "a", "b"), "file:///a/b"),
        (("a/b/",), "a/b"),
        (("/",), "/"),
    ],
)
def test_join(parts: tuple[str, ...], expected: str) -> None:
    assert join(*parts) == expected


def test_absolute_is_what_other_processes_can_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute("a/b/") == f"{tmp_path}/a/b"
    assert absolute("~/b") == "/home/someone/b"
    assert absolute("~b") == f"{tmp_path}/~b"
    assert absolute(f"file://{tmp_path}/c") == f"{tmp_path}/c"
    assert absolute("s3://bucket/x/") == "s3://bucket/x"


def test_names_are_taken_literally(root: str) -> None:
    # url_to_fs would cut the first at "::", and some stores decode %20.
    names = ["c %20#1?*[d].png", "ü.png", "~e.png", "sp ace/f.png"]
    if not root.startswith("memory"):  # whose own paths end at "::"
        names.append("a::b.png")
    for name in names:
        write_atomic(join(root, name), name.encode())
    found = {file.relative: file for file in list_files(root)}
    assert sorted(found) == sorted(names)
    for name in names:
        assert read_bytes(found[name].uri) == name.encode()
        assert stat_file(found[name].uri).fingerprint == found[name].fingerprint


# Listing


def test_files_come_in_the_order_of_their_paths_without_hidden_ones(root: str) -> None:
    listed = ["a-b.png", "a.png", "a/x.png", "a/y/z.png", "a0.png", "b.png", "fused/_ddfmx.png"]
    left_out = [".hidden.png", ".git/x.png", "a/.DS_Store", "_ddfm/runs/1/x.png", "sub/_ddfm/y.png"]
    for name in [*left_out, *reversed(listed)]:
        write_atomic(join(root, name), b"12345")
    files = list(list_files(root + "/"))
    assert [file.relative for file in files] == listed == sorted(listed)
    assert {file.size for file in files} == {5}
    assert [file.uri for file in files] == [f"{absolute(root)}/{name}" for name in listed]


def test_fingerprint_follows_the_content(root: str) -> None:
    uri = join(root, "a.png")
    write_atomic(uri, b"one")
    (before,) = list_files(root)
    assert before == next(iter(list_files(root)))
    assert before.fingerprint.startswith("3-")
    write_atomic(uri, b"two")
    (after,) = list_files(root)
    assert after.size == before.size
    assert after.fingerprint != before.fingerprint


def test_memory_fingerprint_is_that_of_the_bytes() -> None:
    uri = f"memory://{uuid.uuid4().hex}/a"
    write_atomic(uri, b"hello")
    first = stat_file(uri).fingerprint
    write_atomic(uri, b"hello")
    assert stat_file(uri).fingerprint == first == "5-5d41402abc4b2a76b9719d911017c592"


def test_missing_root_names_the_place(root: str) -> None:
    with pytest.raises(StorageError, match="does not exist; check the") as caught:
        list(list_files(join(root, "none")))
    assert absolute(join(root, "none")) in str(caught.value)


def test_root_that_is_a_file(root: str) -> None:
    write_atomic(join(root, "a.png"), b"x")
    with pytest.raises(StorageError, match="a file lies where a folder is needed"):
        list(list_files(join(root, "a.png")))


def test_unknown_protocol_and_missing_driver() -> None:
    for uri in ("nonsense://x/y", "gs://bucket/x"):
        with pytest.raises(StorageError, match=uri):
            list(list_files(uri))


def test_links_and_special_files(tmp_path: Path) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/e.png").write_bytes(b"ee")
    (tmp_path / "root/sub/a.png").write_bytes(b"a")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/sub/round").symlink_to(tmp_path / "root")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "root")
    (tmp_path / "root/gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "root/self.png").symlink_to(tmp_path / "root/self.png")
    os.mkfifo(tmp_path / "root/pipe.png")
    found = {file.relative: (file.size, file.fingerprint) for file in list_files(str(tmp_path / "root"))}
    assert sorted(found) == ["gone.png", "linked/e.png", "self.png", "sub/a.png"]
    assert found["gone.png"] == found["self.png"] == (0, DANGLING)


def test_names_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"x")
    (file,) = list_files(str(tmp_path))
    assert os.fsencode(file.relative) == b"caf\xe9.png"
    assert read_bytes(file.uri) == b"x"


@needs_root
def test_refused_folders_are_errors_and_never_empty(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:-1]:
        if parent.owner() == "root" and not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "half/closed").mkdir(parents=True, mode=0o700)
    (tmp_path / "names_only").mkdir()
    (tmp_path / "names_only/a.png").write_bytes(b"x")
    (tmp_path / "names_only").chmod(0o744)
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "secret.png").chmod(0o600)
    (tmp_path / "half").chmod(0o755)
    out = as_nobody(
        """
root = sys.argv[1]
for name in ("closed", "half", "names_only"):
    try:
        print(name, list(list_files(join(root, name))))
    except StorageError as error:
        print(error)
for call in (lambda: list_names(join(root, "closed")), lambda: write_atomic(join(root, "x/y.png"), b"1"),
             lambda: exists(join(root, "closed/x")), lambda: remove(join(root, "secret.png"))):
    try:
        print(call())
    except StorageError as error:
        print(error)
for call in (read_bytes, stat_file):
    try:
        call(join(root, "secret.png" if call is read_bytes else "closed/a.png"))
    except PairError as error:
        print(error.code)
""",
        str(tmp_path),
    ).splitlines()
    refused = "access was refused (Permission denied); check its permissions."
    assert out == [
        f"{tmp_path}/closed: {refused}",
        f"{tmp_path}/half/closed: {refused}",
        f"{tmp_path}/names_only/a.png: {refused}",
        f"{tmp_path}/closed: {refused}",
        f"{tmp_path}/x/y.png: {refused}",
        f"{tmp_path}/closed/x: {refused}",
        f"{tmp_path}/secret.png: {refused}",
        "permission_denied",
        "permission_denied",
    ]


def test_list_names(root: str) -> None:
    assert list_names(root) == []
    for name in ("b.parquet", "a/x", ".tmp", "c/d/e"):
        write_atomic(join(root, name), b"1")
    assert list_names(root) == ["a", "b.parquet", "c"]
    assert list_names(join(root, "none")) == []


# Reading


class FlakyFileSystem(MemoryFileSystem):
    """Fails as often as it is told, then behaves."""

    protocol = "flaky"
    faults: ClassVar[list[BaseException]] = []
    calls = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("flaky://")))

    def _fail(self) -> None:
        type(self).calls += 1
        if self.faults:
            raise self.faults.pop(0)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> Any:
        self._fail()
        return super().cat_file(path, start, end, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._fail()
        super().pipe_file(path, value, mode, **kwargs)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._fail()
        return super().ls(path, detail, **kwargs)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FlakyFileSystem]]:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    monkeypatch.setattr(retries, "BACK_OFF_S", 0.001)
    monkeypatch.setattr(retries, "_answered", set())
    FlakyFileSystem.faults, FlakyFileSystem.calls = [], 0
    fsspec.filesystem("memory").pipe_file("/flaky/a.png", b"content")
    yield FlakyFileSystem
    fsspec.filesystem("memory").rm("/flaky", recursive=True)


TRANSIENT: dict[str, Callable[[], BaseException]] = {
    "reset": ConnectionResetError,
    "timeout": TimeoutError,
    "fsspec timeout": FSTimeoutError,
    "download cut": lambda: ClientPayloadError("Response payload is not completed"),
    "disconnected": ServerDisconnectedError,
    "no endpoint": lambda: EndpointConnectionError(endpoint_url="http://secret-host/"),
    "read timeout": lambda: ReadTimeoutError(endpoint_url="http://secret-host/"),
    "500": lambda: OSError(errno.EREMOTEIO, "We encountered an internal error."),
    "SlowDown": lambda: OSError(errno.EBUSY, "Please reduce your request rate."),
    "stale handle": lambda: OSError(errno.ESTALE, "Stale file handle"),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_what_may_pass_is_tried_again(flaky: type[FlakyFileSystem], fault: Callable[[], BaseException]) -> None:
    flaky.faults = [fault() for _ in range(retries.TRIES - 1)]
    before = retries_made()
    assert read_bytes("flaky://flaky/a.png") == b"content"
    assert flaky.calls == retries.TRIES
    assert retries_made() - before == retries.TRIES - 1
    flaky.faults, flaky.calls = [fault()], 0
    write_atomic("flaky://flaky/b.png", b"new")
    assert flaky.calls == 2
    assert read_bytes("flaky://flaky/b.png") == b"new"
    flaky.faults = [fault()]
    assert [file.relative for file in list_files("flaky://flaky")] == ["a.png", "b.png"]


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_what_does_not_pass_fails(flaky: type[FlakyFileSystem], fault: Callable[[], BaseException]) -> None:
    flaky.faults = [fault() for _ in range(99)]
    with pytest.raises(PairError) as caught:
        read_bytes("flaky://flaky/a.png")
    assert caught.value.code == Code.READ_FAILED
    assert flaky.calls == retries.TRIES
    assert "at the last of several tries" in str(caught.value)
    assert "secret-host" not in str(caught.value)
    assert "a.png" not in str(caught.value)
    for call in (lambda: read_needed("flaky://flaky/a.png"), lambda: write_atomic("flaky://flaky/a.png", b"")):
        with pytest.raises(StorageError, match=r"^flaky://flaky/a\.png: does not answer, .*check the network"):
            call()


PERMANENT: dict[str, tuple[Callable[[], BaseException], Code]] = {
    "missing": (FileNotFoundError, Code.MISSING_SOURCE),
    "folder": (IsADirectoryError, Code.MISSING_SOURCE),
    "refused": (lambda: PermissionError("The AWS Access Key Id does not exist"), Code.PERMISSION_DENIED),
    "bad request": (lambda: OSError(errno.EINVAL, "Bad Request"), Code.READ_FAILED),
    "memory": (MemoryError, Code.OUT_OF_MEMORY),
}


@pytest.mark.parametrize(("fault", "code"), PERMANENT.values(), ids=PERMANENT.keys())
def test_what_cannot_pass_is_tried_once(
    flaky: type[FlakyFileSystem], fault: Callable[[], BaseException], code: Code
) -> None:
    flaky.faults = [fault()]
    with pytest.raises(PairError) as caught:
        read_bytes("flaky://flaky/a.png")
    assert caught.value.code == code
    assert flaky.calls == 1


def test_what_every_file_of_the_store_shares_is_not_one_pair_s_fault(flaky: type[FlakyFileSystem]) -> None:
    flaky.faults = [NoCredentialsError()]
    with pytest.raises(StorageError, match=r"access was refused .*check the credentials"):
        read_bytes("flaky://flaky/a.png")
    assert flaky.calls == 1


def test_waits_grow_and_differ(flaky: type[FlakyFileSystem], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(retries, "BACK_OFF_S", 0.5)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 4)
    monkeypatch.setattr("time.sleep", waits.append)
    for _ in range(20):
        flaky.faults = [TimeoutError() for _ in range(5)]
        read_bytes("flaky://flaky/a.png")
    for step, longest in enumerate((0.5, 1, 2, 4, 4)):
        seen = waits[step::5]
        assert longest / 2 <= min(seen) < max(seen) <= longest
        assert len(set(seen)) == 20


def test_a_store_that_has_answered_is_waited_for_longer(flaky: type[FlakyFileSystem]) -> None:
    assert exists("flaky://flaky/a.png")
    flaky.faults = [ConnectionResetError() for _ in range(retries.PATIENT_TRIES - 1)]
    assert read_bytes("flaky://flaky/a.png") == b"content"


def test_a_store_that_never_answered_is_given_up_in_time(
    flaky: type[FlakyFileSystem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_ANSWER_S", 0.0)
    flaky.faults = [TimeoutError() for _ in range(99)]
    with pytest.raises(PairError):
        read_bytes("flaky://flaky/a.png")
    assert flaky.calls == 2


def test_missing_sources(root: str) -> None:
    write_atomic(join(root, "folder/a.png"), b"x")
    for name in ("none.png", "folder", "folder/a.png/b.png", "x\0y.png", "n" * 300):
        for call in (read_bytes, stat_file):
            with pytest.raises(PairError) as caught:
                call(join(root, name))
            assert caught.value.code == Code.MISSING_SOURCE, name
    with pytest.raises(StorageError, match=r"none\.json: does not exist"):
        read_needed(join(root, "none.json"))


# Writing


def test_write_read_remove(root: str) -> None:
    uri = join(root, "sub/folder/a.bin")
    assert not exists(uri)
    for data in (b"", b"first", bytes(range(256)) * 1000):
        write_atomic(uri, data)
        assert read_bytes(uri) == data
        assert stat_file(uri).size == len(data)
    assert exists(uri)
    assert exists(join(root, "sub"))
    remove(uri)
    remove(uri)
    assert not exists(uri)


def test_a_written_file_has_the_rights_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(str(tmp_path / "a.png"), b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    name = "n" * 251 + ".png"
    write_atomic(str(tmp_path / name), b"x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folder_and_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match="a folder lies where a file is needed"):
        write_atomic(str(tmp_path / "folder"), b"x")
    with pytest.raises(StorageError, match="a file lies where a folder is needed"):
        write_atomic(str(tmp_path / "file/a.png"), b"x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    code = (
        f"import os, signal, sys; sys.path.insert(0, {os.getcwd()!r}); from tasks.storage import write_atomic\n"  # noqa: PTH109
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomic(sys.argv[1], b'new' * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    (left,) = (path for path in tmp_path.iterdir() if path != target)
    assert left.name.startswith(".ddfm-")
    assert [file.relative for file in list_files(str(tmp_path))] == list_names(str(tmp_path)) == ["a.png"]
    assert target.read_bytes() == b"old"


@needs_root
def test_a_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mount was refused: {mounted.stderr.strip()}")
    try:
        uri = str(tmp_path / "a.png")
        write_atomic(uri, b"old")
        with pytest.raises(StorageError, match=r"a\.png: no space is left \(No space left on device\); make room"):
            write_atomic(uri, bytes(2**21))
        assert read_bytes(uri) == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
        write_atomic(uri, bytes(2**19))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# Large files, and what writers leave


def test_a_file_of_any_size_is_copied_to_its_place(root: str, tmp_path: Path) -> None:
    source = tmp_path / "source.nii.gz"
    for size in (0, 1, 3 * 2**20 + 1):
        source.write_bytes(os.urandom(size))
        uri = join(root, "sub/a.nii.gz")
        write_file(uri, source)
        fetched = fetch_file(uri, tmp_path / "fetched")
        assert fetched.read_bytes() == read_bytes(uri) == source.read_bytes()
        assert list_names(join(root, "sub")) == ["a.nii.gz"]
    with pytest.raises(StorageError, match=r"none\.nii: does not exist"):
        write_file(join(root, "b.nii"), tmp_path / "none.nii")
    with pytest.raises(PairError) as caught:
        fetch_file(join(root, "none.nii"), tmp_path / "fetched")
    assert caught.value.code == Code.MISSING_SOURCE


def test_a_local_file_is_not_fetched(tmp_path: Path) -> None:
    write_atomic(str(tmp_path / "a.nii"), b"x")
    assert fetch_file(f"file://{tmp_path}/a.nii", tmp_path / "fetched") == tmp_path / "a.nii"
    assert not (tmp_path / "fetched").exists()


def test_only_old_temporaries_of_ours_are_swept(tmp_path: Path) -> None:
    ours = f".ddfm-{uuid.uuid4().hex}.tmp"
    for name in (ours, f"sub/{ours}", ".ddfm-other.tmp", "a.png", ".lock.json.guard"):
        write_atomic(str(tmp_path / name), b"x")
        os.utime(tmp_path / name, (0, 0))
    young = tmp_path / f".ddfm-{uuid.uuid4().hex}.tmp"
    young.write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    assert sweep_temporaries(str(tmp_path)) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {young.name, ".ddfm-other.tmp", "a.png", ".lock.json.guard", "link", "sub"}
    assert sweep_temporaries(str(tmp_path)) == 0
    assert sweep_temporaries(str(tmp_path / "none")) == 0


def test_times_of_files(root: str) -> None:
    write_atomic(join(root, "a.png"), b"x")
    (file,) = list_files(root)
    assert file.modified == stat_file(file.uri).modified
    assert file.modified == 0 if root.startswith("memory") else abs(time.time() - file.modified) < 10


# Conditional writes


def test_of_many_writers_one_wins(root: str) -> None:
    uri = join(root, "lock.json")
    assert read_versioned(uri) is None
    assert not replace_if_unchanged(uri, b"x", "0")
    start = threading.Barrier(16)

    def race(write: Callable[[bytes], bool]) -> bytes | None:
        own = uuid.uuid4().bytes
        start.wait()
        return own if write(own) else None

    with ThreadPoolExecutor(16) as pool:
        (creator,) = filter(None, pool.map(race, [lambda own: create_exclusive(uri, own)] * 16))
        found = read_versioned(uri)
        assert found is not None
        content, version = found
        assert content == creator
        (replacer,) = filter(None, pool.map(race, [lambda own: replace_if_unchanged(uri, own, version)] * 16))
    assert read_needed(uri) == replacer
    assert not create_exclusive(uri, b"late")
    assert list_names(root) == ["lock.json"]


def test_a_link_whose_answer_was_lost_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = Path.hardlink_to

    def twice(path: Path, target: Path) -> None:
        link(path, target)
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", twice)
    assert create_exclusive(str(tmp_path / "a"), b"mine")
    assert not create_exclusive(str(tmp_path / "a"), b"theirs")


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert create_exclusive(str(tmp_path / "a"), b"1")
    assert not create_exclusive(str(tmp_path / "a"), b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert list_names(str(tmp_path)) == ["a"]
