"""The job as a Prefect flow on the embedded server."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest

from tests.archives import ddfm, job_settings, make_archive, pictures, write_picture

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def prefect_harness():
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


def flow_state(settings):
    from flows.prefect_flows import LogWatcher, fuse_archive, watcher
    from tasks.job_file import make_job

    # As on a worker: a command that ran before in this process may have left a terminal's.
    watcher.set(LogWatcher())
    return asyncio.run(fuse_archive(make_job(settings), return_state=True))


def test_the_flow_does_what_the_plain_functions_do(prefect_harness, tmp_path):
    plain = make_archive(tmp_path / "plain", 3)
    answer = ddfm("fuse", f"{plain}/ir", f"{plain}/vi", "--out", f"{plain}/out", "--steps", "2", "--no-prefect")
    assert answer.returncode == 0, answer.stderr
    root = make_archive(tmp_path / "flow", 3)
    state = flow_state(job_settings(root, chunk_pairs=16))
    assert state.is_completed()
    assert state.message == "3 pairs: 3 ok"
    assert pictures(root / "out/fused") == pictures(plain / "out/fused")
    state = flow_state(job_settings(root, chunk_pairs=16))
    assert state.is_completed()
    assert "Nothing to do" in state.message


def artifact_of(state):
    """The page that a flow run left."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    async def read():
        async with get_client() as client:
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
            (artifact,) = await client.read_artifacts(flow_run_filter=chosen)
            return artifact.data

    return asyncio.run(read())


def test_rejected_pairs_are_counted_in_a_completed_state(prefect_harness, tmp_path):
    root = make_archive(tmp_path, 1)
    write_picture(root / "ir/alone.png", 3)
    state = flow_state(job_settings(root))
    assert state.is_completed()
    assert "1 rejected (no_partner 1)" in state.message
    page = artifact_of(state)
    assert "| run | pairs | ok | skipped | rejected | failed | took |" in page
    assert "| 2 | 1 | 0 | 1 | 0 |" in page
    assert "- 1 no_partner, in run " in page
    assert str(tmp_path) not in page


def test_a_flow_run_whose_shard_was_sent_again_leaves_it_to_the_later_one(prefect_harness, tmp_path):
    from flows.fuse_archive import check_inputs, plan_runs
    from flows.fuse_shard import shard_chunks
    from flows.prefect_flows import fuse_shard
    from tasks.job_file import make_job
    from tasks.lock import LockLostError, hold
    from tasks.shard_fence import Sending, ShardFence
    from tasks.storage import list_names
    from tests.runs import SilentWatcher

    job = make_job(job_settings(make_archive(tmp_path, 2), mode="max"))
    with hold(job.out) as lock:
        settings = next(plan_runs(check_inputs(job), None, lock.token, SilentWatcher())).settings
        ShardFence(settings.run, "0000", Sending(lock.token, 2)).enter()

        def state_of(number):
            asked = {"dest": settings.run.dest, "run_id": settings.run.run_id, "shard_id": "0000", "places": {}}
            return asyncio.run(fuse_shard(**asked, token=lock.token, number=number, return_state=True))

        late = state_of(1)
        assert late.is_failed()
        with pytest.raises(LockLostError, match=r"no longer this flow run's \(number 1\)"):
            asyncio.run(late.result())
        assert shard_chunks(settings, "0000")
        assert state_of(3).message == "2 pairs done"
        assert not shard_chunks(settings, "0000")
    assert list_names(settings.run.at_work_uri) == list_names(settings.run.attempts_uri) == []


def test_too_many_failures_fail_the_run(prefect_harness, tmp_path, monkeypatch):
    root = make_archive(tmp_path, 2)

    def broken(*_args, **_options):
        raise RuntimeError("the card fell out")

    monkeypatch.setattr("tasks.fuse.fuse", broken)
    state = flow_state(job_settings(root))
    assert state.is_failed()
    assert "2 failed (fusion_failed 2)" in state.message


def test_a_server_that_does_not_answer_is_asked_again_and_its_page_is_not_worth_a_run(
    prefect_harness, tmp_path, monkeypatch
):
    from flows import prefect_flows, run_log, shard_runs

    asked, told = [], []
    monkeypatch.setattr(run_log._ToRun, "emit", lambda _, record: told.append(record.getMessage()))

    async def places_of_a_server_that_is_restarted(_):
        asked.append("places")
        if asked.count("places") == 1:
            raise httpx.ConnectError("refused")

    async def no_page(**_):
        asked.append("page")
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(shard_runs, "_PAUSE_S", 0.05)
    monkeypatch.setattr(shard_runs, "PATIENCE_S", 0.2)
    monkeypatch.setattr(prefect_flows, "load_places", places_of_a_server_that_is_restarted)
    monkeypatch.setattr(prefect_flows, "acreate_markdown_artifact", no_page)
    state = flow_state(job_settings(make_archive(tmp_path, 2), mode="max"))
    assert state.is_completed()
    assert state.message == "2 pairs: 2 ok"
    assert asked.count("places") == 2
    assert asked.count("page") > 2
    assert told[0] == "the Prefect server does not answer (ConnectError); asked again"
    assert told[-1].startswith("the run is complete, but the Prefect server did not take its page (ConnectError: ref")


def test_a_job_is_a_valid_parameter_of_a_deployment(prefect_harness, tmp_path):
    from flows.prefect_flows import fuse_archive

    fuse_archive.validate_parameters({"job": {"first": "a", "second": "b", "out": "c", "register": "resize"}})
    with pytest.raises(Exception, match="steps"):
        fuse_archive.validate_parameters({"job": {"first": "a", "second": "b", "out": "c", "steps": 0}})


def test_an_evaluation_as_a_flow(prefect_harness, tmp_path):
    from flows.prefect_flows import evaluate_as_flow
    from tasks.evaluation.evaluation import make_evaluation
    from tests.flows.test_evaluate import Watcher

    make_archive(tmp_path / "data/tno", 2)
    watcher = Watcher()
    asked = {"data": f"{tmp_path}/data", "out": f"{tmp_path}/out", "methods": ("mean", "max"), "sheets": 0}
    evaluate_as_flow(make_evaluation(asked), watcher)
    assert dict(watcher.outcome.statuses) == {"ok": 4}
    assert "## tno (TNO, 2 pairs)" in (tmp_path / "out/tables.md").read_text()


def evaluated(tmp_path):
    """Evaluate once, as a worker would, and return the state."""
    from flows.prefect_flows import LogEvaluationWatcher, evaluate, evaluation_watcher
    from tasks.evaluation.evaluation import make_evaluation

    asked = {"data": f"{tmp_path}/data", "out": f"{tmp_path}/out", "methods": ("mean",), "sheets": 0}
    evaluation_watcher.set(LogEvaluationWatcher())
    return asyncio.run(evaluate(make_evaluation(asked), return_state=True))


@pytest.mark.parametrize(("run_count", "waits"), [(1, False), (2, True)])
def test_an_evaluation_that_is_started_again_waits_for_the_lock_of_the_process_that_is_gone(
    prefect_harness, tmp_path, monkeypatch, run_count, waits
):
    from flows import prefect_flows

    asked, real = [], prefect_flows.run_evaluation

    def noting(evaluation, *arguments):
        asked.append(evaluation.wait)
        return real(evaluation, *arguments)

    make_archive(tmp_path / "data/tno", 1)
    monkeypatch.setattr(prefect_flows, "run_evaluation", noting)
    monkeypatch.setattr(prefect_flows, "flow_run", SimpleNamespace(run_count=run_count))
    assert evaluated(tmp_path).is_completed()
    assert asked == [waits]


def test_a_scheduled_evaluation_is_in_the_log_of_its_run(prefect_harness, tmp_path, monkeypatch):
    from flows import run_log

    told = []
    monkeypatch.setattr(run_log._ToRun, "emit", lambda _, record: told.append(record.getMessage()))
    make_archive(tmp_path / "data/tno", 1)
    assert evaluated(tmp_path).is_completed()
    assert "1 rows: 1 ok" in told
