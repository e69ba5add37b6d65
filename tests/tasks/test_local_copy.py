"""Copies of remote files: one per process, and what is left of them when it is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.local_copy import local_copy, nameless_copy
from tasks.scratch import sweep_scratch
from tasks.storage import StorageError, write_atomic

COPIES = [local_copy, nameless_copy]

KILLED = """
import os, signal, sys
from tasks.local_copy import local_copy, nameless_copy
from tasks.storage import write_atomic
write_atomic("memory://killed/a.parquet", b"SMITH" * 1000)
copied = {"nameless": nameless_copy, "named": local_copy}[sys.argv[1]]("memory://killed/a.parquet", "advice")
assert (copied.to_pybytes() if sys.argv[1] == "nameless" else copied.read_bytes()) == b"SMITH" * 1000
os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""


def content(copy: Path | pa.Buffer) -> bytes:
    return copy.read_bytes() if isinstance(copy, Path) else copy.to_pybytes()


@pytest.mark.parametrize("copy", COPIES)
def test_a_local_file_is_not_copied(tmp_path, temporary, copy):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert copy(str(path), "advice") == path
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("size", [0, 5, 40 << 20])
def test_a_remote_file_is_fetched_once(tmp_path, temporary, copy, size):
    uri = f"memory://{tmp_path.name}/a"
    write_atomic(uri, b"x" * size)
    found = copy(uri, "advice")
    assert content(found) == b"x" * size
    assert copy(uri, "advice") is found


def test_a_copy_of_several_parts_from_s3(s3_bucket, temporary):
    uri = f"{s3_bucket}/a"
    write_atomic(uri, bytes(range(256)) * (80 << 10))
    assert content(nameless_copy(uri, "advice")) == bytes(range(256)) * (80 << 10)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("root", ["local", "memory"])
def test_what_is_not_there_comes_with_advice(tmp_path, copy, root):
    uri = str(tmp_path / "a") if root == "local" else f"memory://{tmp_path.name}/none"
    with pytest.raises(StorageError, match=r"does not exist; .*begin anew"):
        copy(uri, "begin anew")


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_no_nameless_copy_outlives_its_process(temporary, signal):
    died_of(temporary, "nameless", signal)
    assert not list(temporary.iterdir())


def test_a_named_copy_of_a_killed_process_is_swept(temporary):
    died_of(temporary, "named", "SIGKILL")
    assert len(list(temporary.iterdir())) == 1
    assert sweep_scratch() == 1
    assert not list(temporary.iterdir())


def died_of(temporary: Path, kind: str, signal: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", KILLED, kind, signal],
        env={"TMPDIR": str(temporary), "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode < 0, process.stderr
