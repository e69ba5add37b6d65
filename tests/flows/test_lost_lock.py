"""A run that lost its lock after its last commit leaves the tables of all runs to the one that took over."""

import json
from pathlib import Path

import pytest

from flows import evaluate, fuse_archive, prefect_flows
from flows.evaluate import run_evaluation
from flows.fuse_archive import run_archive
from tasks.evaluation.evaluation import make_evaluation
from tasks.job_file import make_job
from tasks.lock import DestinationLock, LockLostError
from tasks.run_folder import current_folder, unfinished_run
from tests.archives import job_settings, make_archive
from tests.flows.test_evaluate import Watcher
from tests.runs import SilentWatcher


def lose_after(module, monkeypatch):
    """Another run takes over when everything is fused."""
    real = module.fuse_here

    def then_lose(planned, *arguments):
        real(planned, *arguments)
        path = Path(planned.settings.run.dest) / "_ddfm/lock.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"token": content["token"] + 1}))
        for lock in held:
            lock._beat()

    held = []
    start = DestinationLock.start
    monkeypatch.setattr(DestinationLock, "start", lambda lock: (held.append(lock), start(lock)))
    monkeypatch.setattr(module, "fuse_here", then_lose)


def assert_left(dest):
    assert unfinished_run(dest) is not None
    assert not Path(current_folder(dest)).exists()


def test_of_an_archive(tmp_path, monkeypatch):
    job = make_job(job_settings(make_archive(tmp_path, 2), mode="max"))
    lose_after(fuse_archive, monkeypatch)
    with pytest.raises(LockLostError, match="another run took it over"):
        run_archive(job, SilentWatcher())
    assert_left(job.out)


@pytest.mark.server
def test_of_an_archive_as_a_flow(prefect_api, tmp_path, monkeypatch):
    job = make_job(job_settings(make_archive(tmp_path, 2), mode="max"))
    lose_after(prefect_flows, monkeypatch)
    with pytest.raises(LockLostError, match="another run took it over"):
        prefect_flows.run_as_flow(job, SilentWatcher())
    assert_left(job.out)


def test_of_an_evaluation(tmp_path, monkeypatch):
    make_archive(tmp_path / "data/tno", 2)
    asked = {"data": f"{tmp_path}/data", "out": f"{tmp_path}/out", "methods": ("max",), "sheets": 0}
    lose_after(evaluate, monkeypatch)
    with pytest.raises(LockLostError, match="another run took it over"):
        run_evaluation(make_evaluation(asked), Watcher())
    assert_left(f"{tmp_path}/out/tno")
