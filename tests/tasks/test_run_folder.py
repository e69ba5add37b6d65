from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from tasks.run_folder import RunFolder, current_uri, list_runs, new_run, next_run, unfinished_run
from tasks.storage import write_atomic
from tests.runs import begin, commit_all, finish, found_pairs


def test_run_ids_sort_by_time() -> None:
    early = datetime(2026, 11, 22, 23, 59, 59, 999999, tzinfo=UTC)
    runs = [new_run("/d", early + timedelta(microseconds=n)) for n in range(5)]
    assert [run.run_id for run in runs] == sorted(run.run_id for run in runs)
    assert runs[0].run_id.startswith("20261122T235959-999999-")
    assert runs[1].run_id.startswith("20261123T000000-000000-")
    local = early.astimezone(timezone(timedelta(hours=-8)))
    assert new_run("/d", local).run_id[:22] == runs[0].run_id[:22]
    assert new_run("/d", early).run_id != new_run("/d", early).run_id


def test_where_a_run_lies() -> None:
    run = RunFolder("s3://bucket/out/", "id")
    assert run.config_uri == "s3://bucket/out/_ddfm/runs/id/config.json"
    assert run.manifest_uri == "s3://bucket/out/_ddfm/runs/id/manifest.parquet"
    assert run.chunk_uri("0001", "0002") == "s3://bucket/out/_ddfm/runs/id/results/0001-0002.parquet"
    assert run.summary_uri == "s3://bucket/out/_ddfm/runs/id/summary.json"
    assert run.report_uri == "s3://bucket/out/_ddfm/runs/id/report"
    assert run.metrics_uri == "s3://bucket/out/_ddfm/metrics/history/id.parquet"
    assert run.plan_uri == "s3://bucket/out/_ddfm/runs/id/plan.json"
    assert current_uri("s3://bucket/out/", "paper") == "s3://bucket/out/_ddfm/metrics/current/paper.parquet"


def test_the_newest_run_with_a_plan_decides(dest: str) -> None:
    old = begin(dest, found_pairs(1))
    without_plan = new_run(dest)
    write_atomic(without_plan.config_uri, b"{}")
    assert unfinished_run(dest) == old
    new = begin(dest, found_pairs(1))
    assert unfinished_run(dest) == new
    commit_all(new)
    finish(new)
    assert unfinished_run(dest) is None
    assert list_runs(dest) == [old, without_plan, new]


def test_a_run_comes_after_those_of_machines_whose_clocks_are_ahead(dest: str) -> None:
    ahead = new_run(dest, datetime.now(UTC) + timedelta(days=2))
    write_atomic(ahead.config_uri, b"{}")
    assert next_run(dest).run_id > ahead.run_id
    assert next_run(f"{dest}/elsewhere").run_id < ahead.run_id


def test_the_runs_of_methods_are_kept_apart(dest: str) -> None:
    paper = begin(dest, found_pairs(1))
    write_atomic(paper.config_uri, b'{"job": {"method": null, "mode": "paper"}}')
    released = begin(dest, found_pairs(1))
    write_atomic(released.config_uri, b'{"job": {"method": "soft", "mode": "released"}}')
    assert unfinished_run(dest, "paper") == paper
    assert unfinished_run(dest, "soft") == released
    assert unfinished_run(dest, "other") is None
