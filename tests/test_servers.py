"""The servers that other tests rely on are real: they store, refuse, schedule and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests import servers

pytestmark = pytest.mark.server


def test_s3_is_found_through_the_environment_alone(s3_server: servers.S3Server, s3_bucket: str) -> None:
    program = """
        import sys, fsspec
        fs, path = fsspec.core.url_to_fs(sys.argv[1])
        fs.pipe_file(f"{path}/folder/object", b"content")
        assert fs.cat_file(f"{path}/folder/object") == b"content"
        print(*fs.find(path))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), s3_bucket]
    environment = servers.clean_environment(**s3_server.environment())
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{s3_bucket.removeprefix('s3://')}/folder/object"]


def test_s3_refuses_a_second_creation(s3_server: servers.S3Server, s3_bucket: str) -> None:
    from botocore.exceptions import ClientError
    from s3fs import S3FileSystem

    bucket = s3_bucket.removeprefix("s3://")
    fs = S3FileSystem()
    fs.call_s3("put_object", Bucket=bucket, Key="lock", Body=b"first", IfNoneMatch="*")
    with pytest.raises(OSError) as refused:  # noqa: PT011 - s3fs has no word of its own for it
        fs.call_s3("put_object", Bucket=bucket, Key="lock", Body=b"second", IfNoneMatch="*")
    assert isinstance(refused.value.__cause__, ClientError)
    assert refused.value.__cause__.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert fs.cat_file(f"{bucket}/lock") == b"first"


def test_s3_refuses_a_wrong_secret(s3_server: servers.S3Server, s3_bucket: str) -> None:
    from s3fs import S3FileSystem

    with pytest.raises(PermissionError):
        S3FileSystem(key=s3_server.access_key, secret="wrong").ls(s3_bucket)


FLOW = """
from pathlib import Path
from prefect import flow

@flow
async def leave_a_mark(path: str, word: str) -> None:
    Path(path).write_text(word)
"""

WAITING_FLOW = """
import asyncio
from prefect import flow

@flow
async def wait_long() -> None:
    await asyncio.sleep(600)
"""


def test_a_worker_runs_a_deployed_flow(
    tmp_path: Path, prefect_api: str, prefect_pool: str, prefect_worker: servers.Server
) -> None:
    from prefect import flow
    from prefect.deployments import run_deployment

    (tmp_path / "marking.py").write_text(FLOW)
    deployed = flow.from_source(source=str(tmp_path), entrypoint="marking.py:leave_a_mark")
    deployed.deploy(name="test", work_pool_name=prefect_pool, print_next_steps=False, ignore_warnings=True)
    mark = tmp_path / "mark"
    run = run_deployment(
        "leave-a-mark/test", parameters={"path": str(mark), "word": "done"}, timeout=90, poll_interval=0.5
    )
    assert run.state.is_completed(), f"{run.state}\n{prefect_worker.tail()}"
    assert mark.read_text() == "done"
    known = servers.http_json(f"{prefect_api}/flow_runs/filter", {"flow_runs": {"id": {"any_": [str(run.id)]}}})
    assert [entry["state_type"] for entry in known] == ["COMPLETED"]


def test_a_killed_worker_takes_its_flow_runs_with_it(tmp_path: Path, prefect_api: str) -> None:
    from prefect import flow
    from prefect.deployments import run_deployment

    (tmp_path / "waiting.py").write_text(WAITING_FLOW)
    with servers.prefect_worker(prefect_api, "killed") as worker:
        waiting = flow.from_source(source=str(tmp_path), entrypoint="waiting.py:wait_long")
        waiting.deploy(name="test", work_pool_name="killed", print_next_steps=False, ignore_warnings=True)
        run = run_deployment("wait-long/test", timeout=0)
        url = f"{prefect_api}/flow_runs/{run.id}"
        deadline = time.monotonic() + 60
        while servers.http_json(url)["state_type"] != "RUNNING":
            assert time.monotonic() < deadline, worker.tail()
            time.sleep(0.2)
        assert worker.children()  # the flow run
        worker.kill()
        assert not worker.alive
        assert not worker.pids()
    assert servers.http_json(url)["state_type"] == "RUNNING"  # nobody was left to say otherwise


def test_a_missing_package_skips_the_test_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.shutil, "which", lambda _: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="radosgw"), servers.s3_server():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="radosgw"), servers.s3_server():
        pass


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    ending = servers._start("ending", [sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path, os.environ)
    with pytest.raises(servers.ServerError, match=r"ending ended with status 1:\nno luck"):
        servers._await(lambda: False, ending, 60)
    silent = servers._start("silent", ["sh", "-c", "echo still thinking; sleep 60"], tmp_path, os.environ)
    try:
        with pytest.raises(servers.ServerError, match=r"silent did not answer within 1 s:\nstill thinking"):
            servers._await(lambda: False, silent, 1)
    finally:
        silent.stop()
    assert not silent.pids()


def test_servers_end_with_a_killed_test_run() -> None:
    program = (
        "import time\nfrom tests import servers\n"
        "with servers.postgres() as url:\n    print(url, flush=True)\n    time.sleep(600)"
    )
    command = [sys.executable, "-c", program]
    environment = servers.clean_environment(PYTHONPATH=str(Path(servers.__file__).parents[1]))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        assert run.stdout.readline().startswith("postgresql+asyncpg://")
        (server,) = map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())
        folder = Path(f"/proc/{server}/cwd").resolve()
        try:
            run.kill()
            deadline = time.monotonic() + 20
            while Path(f"/proc/{server}/cwd").exists():  # a zombie has none
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            if folder.name.startswith("data"):
                folder = folder.parent
            shutil.rmtree(folder)
