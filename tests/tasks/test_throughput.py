from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.job_file import make_job
from tasks.run_folder import finish_run, new_run
from tasks.settings import RunSettings
from tasks.throughput import FIRST_PAIRS, FIRST_VOLUMES, LOCAL_PAIRS, SHARD_S, estimate_seconds, shard_pairs, shard_rate


def test_an_estimate_is_made_from_the_last_whole_runs(tmp_path: Path) -> None:
    dest = str(tmp_path)
    assert estimate_seconds(dest, 100) is None
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    for day, (fused, seconds, resumed) in enumerate([
        (100, 1000.0, False), (10, 20.0, False), (0, 3.0, False), (10, 40.0, False), (50, 1.0, True), (20, 20.0, False)
    ]):  # fmt: skip
        run = new_run(dest, begun + timedelta(days=day))
        statuses = {"ok": fused, "skipped": 0, "rejected": 1, "failed": 0}
        finish_run(run, {"statuses": statuses, "seconds": seconds, "resumed": resumed})
    assert estimate_seconds(dest, 100) == pytest.approx(100 * (20 + 40 + 20) / (10 + 10 + 20))


_BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def _settings(dest: Path, day: int, config_hash: str = "same", **changes: object) -> RunSettings:
    job = make_job({"first": "a", "second": "b", "out": str(dest), "deployment": "fuse-shard/gpu", **changes})
    return RunSettings(new_run(str(dest), _BEGUN + timedelta(days=day)), job, config_hash, "0" * 64)


def _finish(settings: RunSettings, pairs_per_second: float) -> None:
    finish_run(settings.run, {"shard_rate": shard_rate(settings, pairs_per_second)})


def test_a_first_shard_is_a_guess_and_one_that_stays_here_is_not_measured(tmp_path: Path) -> None:
    assert shard_pairs(_settings(tmp_path, 0)) == FIRST_PAIRS
    assert shard_pairs(_settings(tmp_path, 0, kind="volumes")) == FIRST_VOLUMES
    assert shard_pairs(_settings(tmp_path, 0, kind="volumes", shard_pairs=7, volumes={"shard_volumes": 3})) == 3
    assert shard_pairs(_settings(tmp_path, 0, deployment=None)) == LOCAL_PAIRS


def test_where_nothing_was_dispatched_yet_a_run_of_one_process_says_more_than_nothing(tmp_path: Path) -> None:
    _finish(_settings(tmp_path, 0, config_hash="another", deployment=None), 1000.0)
    assert shard_pairs(_settings(tmp_path, 1)) == FIRST_PAIRS
    _finish(_settings(tmp_path, 2, deployment=None), 0.1)
    assert shard_pairs(_settings(tmp_path, 3)) == 64
    # What a GPU did is not for one CPU to do alone.
    assert shard_pairs(_settings(tmp_path, 3, config_hash="another")) == 8 * FIRST_PAIRS
    assert shard_pairs(_settings(tmp_path, 3, config_hash="another", kind="volumes")) == 8 * FIRST_VOLUMES
    _finish(_settings(tmp_path, 4), 2.0)
    _finish(_settings(tmp_path, 5, deployment=None), 0.1)
    assert abs(shard_pairs(_settings(tmp_path, 6)) - 2.0 * SHARD_S) <= 16 / 2
    assert shard_pairs(_settings(tmp_path, 6, deployment=None)) == LOCAL_PAIRS


def test_shards_take_minutes_at_the_rate_of_earlier_runs_with_these_settings(tmp_path: Path) -> None:
    for day, rate in enumerate((50.0, 1.0, 9.0, 2.0)):
        _finish(_settings(tmp_path, day), rate)
    _finish(_settings(tmp_path, 5, config_hash="another"), 1000.0)
    _finish(_settings(tmp_path, 6, deployment="fuse-shard/cpu"), 0.01)
    finish_run(new_run(str(tmp_path), _BEGUN + timedelta(days=7)), {})
    pairs = shard_pairs(_settings(tmp_path, 8))
    # The middle one of the last three, in whole chunks of 16.
    assert abs(pairs - 2.0 * SHARD_S) <= 16 / 2
    assert pairs % 16 == 0
    assert shard_pairs(_settings(tmp_path, 8, config_hash="another")) == 65536
    assert shard_pairs(_settings(tmp_path, 8, deployment="fuse-shard/cpu")) == 16
    assert shard_pairs(_settings(tmp_path, 8, shard_pairs=5)) == 5
