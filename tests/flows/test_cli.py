"""The command as a user meets it."""

import subprocess
import sys
import time

import pytest

from tests.archives import ddfm, make_archive


def test_help_answers_at_once_and_without_anything_heavy():
    watched = """
import sys
sys.argv = ["ddfm", "--help"]
from flows.cli import main
try:
    main()
except SystemExit:
    print("heavy:", sorted({"torch", "prefect", "numpy", "pyarrow", "fsspec"} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, check=True)
    assert "heavy: []" in answer.stdout
    assert "exit codes" in answer.stdout
    best = 9.9
    for _ in range(3):
        began = time.perf_counter()
        assert ddfm("--help").returncode == 0
        best = min(best, time.perf_counter() - began)
    assert best < 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fuse"], "out"),
        (["fuse", "--out", "c"], "first and second"),
        (["fuse", "a", "b"], "out"),
        (["fuse", "a", "b", "--out", "c", "--steps", "0"], "steps"),
        (["fuse", "a", "b", "--out", "c", "--mode", "magic"], "'released'"),
        (["fuse", "a", "b", "--out", "c", "--prior", "absent.pt"], "absent.pt"),
        (["fuse", "--config", "absent.yaml"], "absent.yaml"),
        (["config", "--check", "absent.yaml"], "absent.yaml"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(arguments, words, tmp_path):
    answer = ddfm(*arguments, *(["--no-prefect"] if arguments[0] == "fuse" else []))
    assert answer.returncode == 2, answer
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


def test_template_and_check(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(ddfm("config", "--template").stdout)
    answer = ddfm("config", "--check", str(job))
    assert answer.returncode == 0
    assert "is a valid job" in answer.stdout
    job.write_text(job.read_text() + "\nsteps: 0\n")
    answer = ddfm("config", "--check", str(job))
    assert answer.returncode == 2
    assert "steps" in answer.stderr


def test_fuse_and_status(tmp_path):
    root = make_archive(tmp_path, 2)
    command = ["fuse", f"{root}/ir", f"{root}/vi", "--out", f"{root}/out", "--steps", "2", "--no-prefect"]
    answer = ddfm(*command)
    assert answer.returncode == 0, answer.stderr
    assert "2 pairs: 2 ok" in answer.stdout
    (root / "ir/broken.png").write_bytes(b"")
    (root / "vi/broken.png").write_bytes((root / "vi/000.png").read_bytes())
    answer = ddfm(*command)
    assert answer.returncode == 1
    assert "broken" in answer.stdout
    answer = ddfm("status", f"{root}/out")
    assert answer.returncode == 0
    assert answer.stdout.count("completed") == 2
    assert "3 pairs have a current row" in answer.stdout


def test_status_of_a_place_without_runs(tmp_path):
    answer = ddfm("status", str(tmp_path))
    assert answer.returncode == 2
    assert "no runs" in answer.stdout


@pytest.mark.server
def test_what_ends_the_flow_on_the_embedded_server_ends_the_command_alike(tmp_path):
    root = make_archive(tmp_path, 1)
    command = ["fuse", f"{root}/ir", f"{root}/vi", "--out", f"{root}/out", "--steps", "2"]
    answer = ddfm(*command)
    assert answer.returncode == 0, answer.stderr
    assert "1 pairs: 1 ok" in answer.stdout
    answer = ddfm("fuse", f"{root}/absent", f"{root}/vi", "--out", f"{root}/out2")
    assert answer.returncode == 3
    assert "absent" in answer.stderr
    (root / "empty").mkdir()
    answer = ddfm("fuse", f"{root}/empty", f"{root}/vi", "--out", f"{root}/out2")
    assert answer.returncode == 2
    assert "no files below" in answer.stderr
