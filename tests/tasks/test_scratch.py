"""Scratch folders: closed to others, and removed by the next process when theirs was killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tasks.scratch import folder_prefix, open_database, scratch_errors, scratch_folder
from tasks.storage import StorageError

HOLDING = """
import sys
from tasks.scratch import scratch_folder
with scratch_folder() as scratch:
    (scratch / "names").mkdir()
    (scratch / "names" / "index.parquet").write_text("SMITH")
    print(scratch, flush=True)
    sys.stdin.read()
"""


def test_nobody_else_may_look_and_nothing_stays(temporary):
    with scratch_folder() as scratch:
        assert scratch.parent == temporary
        assert scratch.stat().st_mode & 0o777 == 0o700
        (scratch / "a").write_text("a")
    assert not list(temporary.iterdir())


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(temporary):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDING],
            env={"TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        killed, living = (Path(process.stdout.readline().strip()) for process in processes)
        processes[0].kill()
        processes[0].wait()
        assert (killed / "names" / "index.parquet").exists()
        with scratch_folder() as scratch:
            assert set(temporary.iterdir()) == {living, scratch}
        assert (living / "names" / "index.parquet").read_text() == "SMITH"
    finally:
        for process in processes:
            process.communicate()
    assert not list(temporary.iterdir())


def test_only_dead_processes_of_this_machine_lose_their_folders(temporary):
    own = folder_prefix()
    machine, boot, namespace, pid, started = re.fullmatch(r"ddfm-(\w+)-([\w-]+)-(\d+)-(\d+)-(\d+)-", own).groups()
    dead = f"ddfm-{machine}-{boot}-{namespace}-{pid}-{int(started) + 1}-aaaaaaaa"
    kept = [
        f"{own}aaaaaaaa",
        f"ddfm-{'0' * 8}-{boot}-{namespace}-{pid}-{int(started) + 1}-aaaaaaaa",
        f"ddfm-{machine}-{boot}-1{namespace}-{pid}-{int(started) + 1}-aaaaaaaa",
        f"ddfm-{machine}-{boot}-{namespace}-{pid}--aaaaaaaa",
        "ddfm-demo",
        "ddfm-prefect-home-x",
    ]
    for name in (dead, *kept):
        (temporary / name).mkdir()
    elsewhere = temporary.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (temporary / f"{dead[:-1]}b").symlink_to(elsewhere)
    with scratch_folder():
        pass
    left = {path.name for path in temporary.iterdir()}
    assert dead not in left
    assert left >= set(kept)
    assert (elsewhere / "file").exists()


def test_a_folder_of_another_user_is_left_alone(temporary, monkeypatch):
    machine_to_pid, _, started = folder_prefix().rstrip("-").rpartition("-")
    left = temporary / f"{machine_to_pid}-{int(started) + 1}-aaaaaaaa"
    left.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(left, 12345, -1)
    with scratch_folder():
        assert left.exists()


def test_what_a_database_or_a_disk_refuses_names_no_file(tmp_path):
    with (
        pytest.raises(StorageError, match="make room") as told,
        scratch_errors(tmp_path),
        open_database(tmp_path) as database,
    ):
        database.sql("SELECT * FROM 'SMITH.parquet'")
    assert isinstance(told.value.__context__, duckdb.Error)
    assert "SMITH" not in str(told.value)
    with pytest.raises(StorageError, match="make room"), scratch_errors(tmp_path):
        pa.OSFile(str(tmp_path / "none" / "SMITH"), "wb")
