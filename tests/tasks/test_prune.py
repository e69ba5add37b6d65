from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.fuse_archive import run_archive
from tasks.codes import Code, ConfigurationError
from tasks.current import current_rows
from tasks.index import Index
from tasks.job import Job
from tasks.job_file import make_job
from tasks.pair_folders import index_folders
from tasks.prune import prune, vanished_outputs
from tasks.run_folder import list_runs, new_run
from tasks.settings import RunSettings
from tasks.verify import verify_rows
from tests.archives import job_settings, make_archive, pictures, write_picture
from tests.runs import SilentWatcher


def index(root: Path, scratch: Path) -> Index:
    scratch.mkdir(exist_ok=True)
    return index_folders(f"{root}/ir", f"{root}/vi", scratch)


def settings_of(job: Job) -> RunSettings:
    return RunSettings(new_run(job.out), job, "0123456789abcdef", "0" * 64)


def unchecked() -> None:
    """The lock is held."""


def fused_archive(root: Path, pairs: int) -> Job:
    job = make_job(job_settings(make_archive(root, pairs)))
    run_archive(job, SilentWatcher())
    return job


def test_pictures_without_sources_go_and_come_back_with_them(tmp_path: Path) -> None:
    job = fused_archive(tmp_path, 5)
    before = pictures(tmp_path / "out/fused/adaptive")
    for side in ("ir", "vi"):
        (tmp_path / side / "001.png").unlink()
    (tmp_path / "vi/004.png").unlink()
    scratch = tmp_path / "scratch"
    listed = vanished_outputs(job.out, job, index(tmp_path, scratch), scratch)
    # 004 has a source yet: it becomes a row without partner, not a vanished one.
    assert [row["pair_key"] for row in pq.read_table(listed.path).to_pylist()] == ["001"]
    assert (listed.pairs, listed.rows) == (1, 5)
    assert pictures(tmp_path / "out/fused/adaptive") == before

    settings = settings_of(job)
    assert prune(settings, index(tmp_path, scratch), scratch, 0.5, unchecked).pairs == 1
    assert set(pictures(tmp_path / "out/fused/adaptive")) == {"000.png", "002.png", "003.png", "004.png"}
    rows = {row["pair_key"]: row for row in current_rows(job.out, "adaptive", None).to_pylist()}
    assert (rows["001"]["status"], rows["001"]["code"], rows["001"]["output_uri"]) == ("skipped", "vanished", None)
    assert rows["001"]["run_id"] == settings.run.run_id
    assert rows["001"]["first_uri"] == f"{tmp_path}/ir/001.png"
    assert rows["000"]["status"] == "ok"
    assert json.loads(Path(settings.run.summary_uri).read_text())["codes"] == {Code.VANISHED: 1}
    assert verify_rows(job.out, scratch, deep=True).sound

    # Once pruned it is not pruned again, and settled.
    runs = list_runs(job.out)
    assert prune(settings_of(job), index(tmp_path, scratch), scratch, 0.5, unchecked).pairs == 0
    assert list_runs(job.out) == runs
    write_picture(tmp_path / "ir/001.png", 2)
    write_picture(tmp_path / "vi/001.png", 3, colour=True)
    write_picture(tmp_path / "vi/004.png", 9, colour=True)
    run_archive(job, SilentWatcher())
    after = pictures(tmp_path / "out/fused/adaptive")
    assert after["001.png"] == before["001.png"]


def test_an_archive_that_is_mostly_gone_is_not_pruned(tmp_path: Path) -> None:
    job = fused_archive(tmp_path, 3)
    for side in ("ir", "vi"):
        for name in ("001", "002"):
            (tmp_path / side / f"{name}.png").unlink()
    scratch = tmp_path / "scratch"
    with pytest.raises(ConfigurationError, match="2 of 3 pairs are gone from the archive"):
        prune(settings_of(job), index(tmp_path, scratch), scratch, 0.5, unchecked)
    assert len(pictures(tmp_path / "out/fused/adaptive")) == 3
    assert prune(settings_of(job), index(tmp_path, scratch), scratch, 1, unchecked).pairs == 2
    assert len(pictures(tmp_path / "out/fused/adaptive")) == 1


def test_pairs_of_other_folders_and_pruned_ones_are_not_counted(tmp_path: Path) -> None:
    job = fused_archive(tmp_path, 4)
    other = make_job(job_settings(make_archive(tmp_path / "other", 6), out=job.out))
    for number in range(4):
        for side in ("ir", "vi"):
            (tmp_path / f"other/{side}/{number:03}.png").rename(tmp_path / f"other/{side}/other-{number}.png")
    run_archive(other, SilentWatcher())
    (tmp_path / "ir/003.png").unlink()
    (tmp_path / "vi/003.png").unlink()
    scratch = tmp_path / "scratch"
    # 004 and 005 of the other archive are not this one's to prune, nor are other-0 to other-3.
    found = vanished_outputs(job.out, job, index(tmp_path, scratch), scratch)
    assert [row["pair_key"] for row in pq.read_table(found.path).to_pylist()] == ["003"]
    assert (found.pairs, found.rows) == (1, 4)
    assert prune(settings_of(job), index(tmp_path, scratch), scratch, 0.5, unchecked).pairs == 1
    assert vanished_outputs(job.out, job, index(tmp_path, scratch), scratch).rows == 3


def test_a_selection_is_refused(tmp_path: Path) -> None:
    job = fused_archive(tmp_path, 1).model_copy(update={"only": ("a*",)})
    scratch = tmp_path / "scratch"
    with pytest.raises(ConfigurationError, match="leave them out"):
        vanished_outputs(job.out, job, index(tmp_path, scratch), scratch)
