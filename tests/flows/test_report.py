"""The page about a run, as a user asks for it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli import main
from flows.fuse_archive import run_archive
from flows.report import alarms, tell_once, write_report
from tasks.codes import ConfigurationError
from tasks.job_file import make_job
from tasks.report.page import METRIC_MEANINGS, anchor_of
from tasks.report.request import ReportRequest
from tests.archives import job_settings, make_archive, write_picture
from tests.flows.test_volumes import job_of, make_pair
from tests.runs import SilentWatcher, cut_run


class Page(HTMLParser):
    """What a browser would find on a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.links += [found[name] for name in ("src", "href") if name in found]
        if "id" in found:
            self.ids.append(found["id"])

    def handle_data(self, data):
        self.text += data


def fuse(settings):
    run_archive(make_job({"mode": "mean"} | settings), SilentWatcher())


def report(root, **settings):
    written = write_report(ReportRequest(out=f"{root}/out", **settings))
    return written, Page(Path(written.uri))


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """An archive of 24 pairs and three sources that are none, fused by the mean."""
    root = make_archive(tmp_path_factory.mktemp("archive"), 24, size=(40, 32))
    write_picture(root / "ir/<b>&alone.png", 3)
    write_picture(root / "ir/size.png", 3)
    write_picture(root / "vi/size.png", 4, size=(50, 32))
    (root / "ir/cut.png").write_bytes((root / "ir/000.png").read_bytes()[:100])
    shutil.copy(root / "vi/000.png", root / "vi/cut.png")
    fuse(job_settings(root))
    return root


@pytest.fixture
def archive(fused, tmp_path):
    """A copy of it; rows that name another place are found below the destination that is reported."""
    shutil.copytree(fused, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_page_of_a_run(archive):
    written, page = report(archive)
    assert written.sentence().endswith("completed: 27 rows: 24 ok, 3 rejected")
    assert Path(written.uri) == archive / "out" / written.relative
    for words in ("The run is complete.", "size_mismatch", "32x32 and 50x32", "truncated", "copy it again",
                  "no_partner", "<b>&alone", "per hour", "nothing to compare with"):  # fmt: skip
        assert words in page.text, words
    # Pictures this small have no VIF.
    assert set(written.figures.metrics) == set(METRIC_MEANINGS) - {"VIF"}
    for name in written.figures.metrics:
        assert METRIC_MEANINGS[name] in page.text
    # Each pair of each end is shown, three pictures each, and what is linked is there.
    shown = {one.outlier.row.pair_key for one in written.shown}
    for ends in written.figures.ends.values():
        assert {one.pair_key for one in (*ends.lowest, *ends.highest)} <= shown
        assert len(ends.lowest) == len(ends.highest) == 3
    assert all([one.label for one in pair.pictures] == ["first", "second", "fused"] for pair in written.shown)
    assert all(one.jpeg is not None and not one.note for pair in written.shown for one in pair.pictures)
    assert {link[1:] for link in page.links if link.startswith("#")} == {anchor_of(key) for key in shown}
    assert {anchor_of(key) for key in shown} <= set(page.ids)


def test_a_page_needs_nothing_else_and_says_no_path(archive):
    _, page = report(archive)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "default-src 'none'" in page.source
    assert not re.search(r"https?://", page.source)
    assert str(archive) not in page.source
    assert "/ir/" not in page.text
    assert len(page.source) < 5_000_000


def test_without_pictures(archive):
    written, page = report(archive, pictures=0)
    assert written.shown == ()
    assert not any("image/jpeg" in link for link in page.links)
    assert "lowest" not in page.text


def test_pictures_that_are_gone_or_replaced_are_said(archive):
    written, _ = report(archive, pictures=1)
    gone, other = (one.outlier.row.pair_key for one in written.shown[:2])
    (archive / f"out/fused/mean/{gone}.png").unlink()
    Image.fromarray(np.zeros((32, 40), np.uint8)).save(archive / f"out/fused/mean/{other}.png")
    written, page = report(archive, pictures=1)
    notes = {one.outlier.row.pair_key: one.pictures[2] for one in written.shown}
    assert notes[gone].jpeg is None
    assert notes[gone].note.startswith("missing_source: ")
    assert notes[other].jpeg is not None
    assert "it was replaced since" in notes[other].note
    assert "it was replaced since" in page.text


def test_a_run_that_moved_is_an_alarm(archive, capsys):
    before, _ = report(archive)
    # Everything is fused anew, by another rule under the same name.
    fuse(job_settings(archive, mode="max", method="mean"))
    assert main(["report", f"{archive}/out"]) == 1
    told = capsys.readouterr().out
    assert "drifted: " in told
    written, page = report(archive)
    assert written.settings_changed
    assert written.earlier is not None
    assert written.earlier.run.run_id == before.run.run_id
    assert "The settings changed between the two runs" in page.text
    assert before.run.run_id in page.text
    (alarm,) = alarms(written)
    assert alarm.event == "ddfm.run.drifted"
    assert alarm.payload["run_id"] == written.run.run_id
    assert set(alarm.payload["shifts"]) == set(written.drifted)
    assert re.fullmatch(r"ddfm\.destination\.[0-9a-f]{16}", alarm.resource["prefect.resource.id"])
    assert str(archive) not in json.dumps([alarm.resource, alarm.payload])
    # It is told once, however often the page is written again.
    told = []
    for _ in range(2):
        tell_once(report(archive, pictures=0)[0], told.append)
    assert [one.event for one in told] == ["ddfm.run.drifted"]
    # The first run is still there to be asked for, and has none before it.
    first, _ = report(archive, run_id=before.run.run_id)
    assert (first.run, first.earlier, alarms(first)) == (before.run, None, [])


def test_too_many_failures_are_an_alarm(tmp_path, monkeypatch):
    root = make_archive(tmp_path, 2)

    def broken(*_args, **_options):
        raise RuntimeError("the card fell out")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.fuse.fuse", broken)
        fuse(job_settings(root))
    written, page = report(root)
    assert "The run failed." in page.text
    assert not written.figures.metrics
    assert [alarm.event for alarm in alarms(written)] == ["ddfm.run.failed-share-exceeded"]
    assert main(["report", f"{root}/out"]) == 1


def test_a_run_that_is_not_finished(tmp_path, monkeypatch):
    root = make_archive(tmp_path, 6)
    cut_run(monkeypatch, job_settings(root, mode="mean"), 2)
    written, page = report(root)
    assert "4 of 6 planned pairs have their row so far" in page.text
    assert written.figures.ok == 4
    assert alarms(written) == []
    # It can still be resumed, and the page then says more.
    fuse(job_settings(root))
    assert report(root)[0].sentence().endswith("completed: 6 rows: 6 ok")


def test_which_run(archive, capsys):
    lines = (f"{name}: {value}\n" for name, value in job_settings(archive, mode="max").items())
    (job := archive / "job.yaml").write_text("".join(lines))
    assert main(["report", "--config", str(job)]) == 2
    assert "has no planned run of method max" in capsys.readouterr().err
    assert main(["fuse", "--config", str(job), "--no-prefect"]) == 1
    assert main(["report", "--config", str(job), "--pictures", "0"]) == 0
    assert main(["report", f"{archive}/out", "--method", "mean", "--pictures", "0"]) == 0
    pages = list((archive / "out/_ddfm/runs").glob("*/report/index.html"))
    assert sorted(Page(page).text.split(", run of ")[0].strip() for page in pages) == ["max", "mean"]
    with pytest.raises(ConfigurationError, match=r"run_id: yesterday is no planned run of .*; the newest is 2"):
        report(archive, run_id="yesterday")
    assert main(["report", f"{archive}/nowhere"]) == 2
    assert main(["report", f"{archive}/out", "--pictures", "7"]) == 2
    assert "pictures: Input should be less than or equal to 6 (given: 7)" in capsys.readouterr().err


def test_in_strict_privacy_the_sources_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("DDFM_PSEUDONYM_SECRET", "0123456789abcdef")
    root = make_archive(tmp_path, 3)
    (root / "ir/000.png").rename(root / "ir/Smith.png")
    (root / "vi/000.png").rename(root / "vi/Smith.png")
    write_picture(root / "ir/Miller.png", 9)
    fuse(job_settings(root, privacy="strict"))
    written, page = report(root)
    assert written.shown
    assert {one.label for pair in written.shown for one in pair.pictures} == {"fused"}
    assert "The sources are not shown" in page.text
    for name in ("Smith", "Miller", str(root)):
        assert name not in page.source


def test_of_a_volume_the_slice_is_shown_that_stands_out(tmp_path, monkeypatch):
    monkeypatch.setenv("DDFM_PSEUDONYM_SECRET", "0123456789abcdef")
    make_pair(tmp_path)
    fuse(job_of(tmp_path))
    written, page = report(tmp_path)
    (pair,) = written.shown
    (picture,) = pair.pictures
    reason = pair.outlier.reasons[0]
    import pyarrow.parquet as pq

    (slices,) = (Path(written.run.uri) / "slices").glob("*.parquet")
    rows = [row for row in pq.read_table(slices).to_pylist() if row["outcome"] == "fused"]
    outermost = (min if reason.end == "lowest" else max)(rows, key=lambda row: row[reason.metric])
    assert picture.label == f"fused, slice {outermost['slice_index']}"
    assert picture.jpeg is not None
    assert not picture.note
    assert "Smith" not in page.source


@pytest.mark.server
def test_the_flow_leaves_a_page_an_artifact_and_an_event(archive):
    from prefect.client.orchestration import get_client
    from prefect.testing.utilities import prefect_test_harness

    from flows.prefect_flows import report as report_flow

    fuse(job_settings(archive, mode="max", method="mean"))

    async def run():
        state = await report_flow(ReportRequest(out=f"{archive}/out"), return_state=True)
        async with get_client() as client:
            artifacts = await client.read_artifacts()
            for _ in range(100):
                answer = await client._client.post("/events/filter", json={"filter": {"event": {"prefix": ["ddfm."]}}})
                if events := answer.json()["events"]:
                    break
                await asyncio.sleep(0.2)
        return state, artifacts, events

    with prefect_test_harness(server_startup_timeout=120):
        state, (artifact,), (event,) = asyncio.run(run())
    assert state.is_completed()
    assert "drifted" in state.message
    assert "| MI |" in artifact.data
    assert "24 ok" in artifact.data
    assert str(archive) not in artifact.data
    assert event["event"] == "ddfm.run.drifted"
    assert event["resource"]["prefect.resource.id"].startswith("ddfm.destination.")
    assert any(one["prefect.resource.id"].startswith("prefect.flow-run.") for one in event["related"])
    assert "MI" in event["payload"]["shifts"]
    tell_once(report(archive, pictures=0)[0], pytest.fail)
