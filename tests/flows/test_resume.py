"""Which unfinished run a job goes on with, and what the others leave behind."""

import hashlib
import json
import logging
from pathlib import Path

import pytest

from flows.fuse_archive import run_archive
from tasks.attempts import marked_chunks
from tasks.current import current_rows
from tasks.job_file import make_job
from tasks.run_folder import RunFolder, list_runs, unfinished_run
from tasks.settings import RunSettings
from tasks.throughput import shard_pairs
from tests.archives import job_settings, make_archive, pictures, write_picture
from tests.runs import SilentWatcher, cut_run


def fuse(settings):
    run_archive(make_job(settings), SilentWatcher())


def rows(settings, method="adaptive"):
    return {row["pair_key"]: row for row in current_rows(settings["out"], method, columns=None).to_pylist()}


def assert_sound(settings, method="adaptive"):
    for row in rows(settings, method).values():
        assert hashlib.sha256(Path(row["output_uri"]).read_bytes()).hexdigest() == row["output_sha256"]


@pytest.fixture
def settings(tmp_path):
    return job_settings(make_archive(tmp_path, 6), steps=1)


def test_a_job_of_another_method_in_between_does_not_end_a_run(settings, monkeypatch):
    cut_run(monkeypatch, settings, 1)
    left = unfinished_run(settings["out"], "adaptive")
    fuse(settings | {"mode": "released"})
    fuse(settings)
    assert {row["run_id"] for row in rows(settings).values()} == {left.run_id}
    assert len(rows(settings)) == 6
    assert marked_chunks(left) == set()


def test_a_selection_leaves_an_unfinished_run_alone(settings, monkeypatch):
    cut_run(monkeypatch, settings, 1)
    fuse(settings | {"only": ["005"]})
    assert sorted(rows(settings)) == ["000", "001", "005"]
    fuse(settings)
    assert sorted(rows(settings)) == [f"{number:03}" for number in range(6)]
    assert_sound(settings)


def test_pictures_of_a_run_that_was_given_up_are_noticed(settings, monkeypatch):
    fuse(settings)
    before = pictures(Path(settings["out"]) / "fused/adaptive")
    cut_run(monkeypatch, settings | {"seed": 7}, 1)
    # The third and fourth picture are those of the other seed, and their rows are not.
    assert pictures(Path(settings["out"]) / "fused/adaptive") != before
    fuse(settings)
    assert pictures(Path(settings["out"]) / "fused/adaptive") == before
    assert_sound(settings)
    runs = len(list_runs(settings["out"]))
    fuse(settings)
    assert len(list_runs(settings["out"])) == runs


def test_what_a_resumed_run_tried_again_is_not_tried_once_more(settings, monkeypatch):
    write_picture(Path(settings["first"]) / "003.png", 5, size=(8, 8))
    fuse(settings)
    runs = len(list_runs(settings["out"]))
    again = settings | {"retry": ["rejected"]}
    cut_run(monkeypatch, again, 0)
    fuse(again)
    assert len(list_runs(settings["out"])) == runs + 1


def test_a_configuration_of_another_version_is_no_obstacle(settings, monkeypatch, caplog):
    cut_run(monkeypatch, settings, 1)
    left = unfinished_run(settings["out"])
    config = Path(left.config_uri)
    config.write_text(config.read_text().replace('"eta"', '"no_such_field"'))
    with caplog.at_level(logging.WARNING):
        fuse(settings)
    assert "the run is not resumed" in caplog.text
    assert len(rows(settings)) == 6


def test_a_resumed_run_has_the_job_as_it_is_now(settings, monkeypatch):
    from tasks.settings import read_settings

    cut_run(monkeypatch, settings, 1)
    left = unfinished_run(settings["out"])
    fuse(settings | {"batch": 1, "readers": 2})
    job = read_settings(RunFolder(settings["out"], left.run_id)).job
    assert (job.batch, job.readers) == (1, 2)


def test_relative_and_absolute_sources_are_the_same(settings, monkeypatch, tmp_path):
    cut_run(monkeypatch, settings, 1)
    left = unfinished_run(settings["out"])
    monkeypatch.chdir(tmp_path)
    fuse(settings | {"first": "ir", "second": "vi"})
    assert {row["run_id"] for row in rows(settings).values()} == {left.run_id}


def test_only_a_run_that_was_done_at_one_go_tells_its_rate(settings, monkeypatch):
    cut_run(monkeypatch, settings, 1)
    fuse(settings)
    fuse(settings | {"seed": 7})
    resumed, whole = (json.loads(Path(run.summary_uri).read_text()) for run in list_runs(settings["out"]))
    assert "shard_rate" not in resumed
    rate = whole["shard_rate"]["pairs_per_second"]
    assert rate == pytest.approx(6 / whole["seconds"], rel=0.01)
    # Six hundred seconds of it, or as much as is risked for a machine that is not known.
    config_hash = next(iter(rows(settings).values()))["config_hash"]
    job = make_job(settings | {"seed": 7, "deployment": "fuse-shard/gpu"})
    run = RunFolder(settings["out"], "later")
    assert shard_pairs(RunSettings(run, job, config_hash, "0" * 64)) == pytest.approx(min(600 * rate, 2048), abs=1)
