from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.run_folder import finish_run, new_run
from tasks.throughput import estimate_seconds


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
