"""The whole job as plain functions: rows, pictures, what is planned again and what is not."""

import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ddfm_core.metrics import METRIC_NAMES
from flows.fuse_archive import run_archive
from flows.terminal import TerminalWatcher, make_console
from tasks.codes import Code, ConfigurationError, Status
from tasks.current import current_rows
from tasks.job_file import make_job
from tasks.storage import StorageError
from tests.archives import ddfm, job_settings, make_archive, pictures, write_picture


def run(settings):
    """The summaries of a job's runs."""
    watcher = TerminalWatcher(make_console())
    run_archive(make_job(settings), watcher)
    return watcher.summaries


def rows_by_key(settings):
    table = current_rows(str(settings["out"]), columns=None)
    return {row["pair_key"]: row for row in table.to_pylist()}


def test_every_pair_becomes_a_picture_and_a_row(tmp_path):
    root = make_archive(tmp_path, 5, size=(104, 88))
    settings = job_settings(root, dataset="made", modality_first="ir", modality_second="vi")
    (summary,) = run(settings)
    assert summary.clean
    assert summary.count(Status.OK) == 5
    rows = rows_by_key(settings)
    assert sorted(rows) == ["000", "001", "002", "003", "004"]
    for key, row in rows.items():
        picture = Image.open(row["output_uri"])
        assert (picture.size, picture.mode) == ((104, 88), "RGB")
        assert (row["height"], row["width"], row["dataset"], row["mode"]) == (88, 104, "made", "adaptive")
        assert row["output_sha256"] == pictures(tmp_path / "out/fused/adaptive")[f"{key}.png"]
        assert all(np.isfinite(row[name]) for name in METRIC_NAMES)
        assert row["seconds_fuse"] > 0


def test_the_rows_can_be_recomputed_from_the_files(tmp_path):
    settings = job_settings(make_archive(tmp_path, 1))
    run(settings)
    row = rows_by_key(settings)["000"]

    def grey(path):
        red, green, blue = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64).transpose(2, 0, 1)
        return np.round(0.299 * red + 0.587 * green + 0.114 * blue)

    fused, first, second = grey(row["output_uri"]), grey(row["first_uri"]), grey(row["second_uri"])
    assert row["SD"] == pytest.approx(fused.std())
    assert row["MSE"] == pytest.approx((((fused - first) ** 2).mean() + ((fused - second) ** 2).mean()) / 2)


def test_a_baseline_runs_as_any_method(tmp_path):
    root = make_archive(tmp_path, 2)
    (root / "vi" / "001.png").write_bytes(b"no picture")
    folders = [f"{root}/ir", f"{root}/vi", "--out", f"{root}/out", "--no-prefect"]
    assert ddfm("fuse", *folders, "--mode", "max").returncode == 1
    settings = job_settings(root, mode="max")
    rows = rows_by_key(settings)
    assert (rows["000"]["status"], rows["000"]["mode"], rows["001"]["status"]) == ("ok", "max", "rejected")
    fused, first, second = (
        np.asarray(Image.open(path).convert("L"), float)
        for path in (rows["000"]["output_uri"], root / "ir/000.png", root / "vi/000.png")
    )
    assert abs(fused - np.maximum(first, second)).mean() < 2
    assert rows["000"]["std_mean"] is None
    assert 0 <= rows["000"]["out_of_gamut"] < 1
    # Nothing that a baseline does not use makes it run again.
    assert run(settings | {"steps": 7, "seed": 3}) == []


def test_an_unchanged_archive_plans_nothing_and_a_changed_one_just_what_changed(tmp_path):
    settings = job_settings(make_archive(tmp_path, 4))
    run(settings)
    assert run(settings) == []
    before = pictures(tmp_path / "out/fused/adaptive")
    write_picture(tmp_path / "vi/002.png", 99, colour=True)
    write_picture(tmp_path / "ir/004.png", 50)
    write_picture(tmp_path / "vi/004.png", 51, colour=True)
    (summary,) = run(settings)
    assert summary.reconciliation.pairs == 2
    after = pictures(tmp_path / "out/fused/adaptive")
    assert {key for key in after if after[key] != before.get(key)} == {"002.png", "004.png"}
    (summary,) = run(settings | {"seed": 7})
    assert summary.reconciliation.pairs == 5


def test_two_methods_live_side_by_side(tmp_path):
    settings = job_settings(make_archive(tmp_path, 2))
    run(settings)
    run(settings | {"mode": "released"})
    assert run(settings) == []
    assert set(pictures(tmp_path / "out/fused")) == {
        f"{m}/{k}.png" for m in ("adaptive", "released") for k in ("000", "001")
    }


def test_bad_inputs_become_rows_and_the_others_are_fused(tmp_path):
    root = make_archive(tmp_path, 3)
    write_picture(root / "ir/alone.png", 1)
    for name in ("text", "cut", "size", "tiny"):
        write_picture(root / f"ir/{name}.png", 1)
        write_picture(root / f"vi/{name}.png", 2)
    (root / "ir/text.png").write_text("not a picture at all")
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(jpeg, "JPEG")
    (root / "ir/cut.png").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    write_picture(root / "vi/size.png", 2, size=(33, 32))
    write_picture(root / "ir/tiny.png", 2, size=(1, 1))
    (root / "ir/notes.txt").write_text("a note")
    settings = job_settings(root)
    (summary,) = run(settings)
    assert not summary.clean
    codes = {key: row["code"] for key, row in rows_by_key(settings).items()}
    assert codes == {
        "000": None, "001": None, "002": None, "alone": Code.NO_PARTNER, "text": Code.DECODE_FAILED,
        "cut": Code.TRUNCATED, "size": Code.SIZE_MISMATCH, "tiny": Code.TOO_SMALL, "notes.txt": Code.NOT_IMAGE,
    }  # fmt: skip
    assert "33x32" in rows_by_key(settings)["size"]["message"]
    assert run(settings) == []
    (summary,) = run(settings | {"register": "resize"})
    assert rows_by_key(settings)["size"]["status"] == Status.OK


@pytest.mark.parametrize("stage", ["normalise", "measure"])
def test_a_fault_of_ours_costs_one_pair_and_is_tried_again(tmp_path, monkeypatch, stage):
    from tasks import image_pair

    settings = job_settings(make_archive(tmp_path, 3))
    right, calls = getattr(image_pair, stage), []

    def wrong(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("a fault")
        return right(*arguments)

    monkeypatch.setattr(image_pair, stage, wrong)
    (summary,) = run(settings)
    assert (summary.count(Status.OK), summary.count(Status.FAILED)) == (2, 1)
    (failed,) = [row for row in rows_by_key(settings).values() if row["status"] == Status.FAILED]
    assert (failed["code"], failed["attempt"]) == (Code.INTERNAL_ERROR, 1)
    assert "ZeroDivisionError: a fault" in failed["message"]
    (summary,) = run(settings)
    assert summary.clean
    assert rows_by_key(settings)[failed["pair_key"]]["attempt"] == 2


def test_a_table_of_pairs(tmp_path):
    make_archive(tmp_path, 2)
    (tmp_path / "pairs.csv").write_text("first,second,key\nir/000.png,vi/001.png,crossed\nir/001.png,vi/009.png,gone\n")
    settings = {"pairs": f"{tmp_path}/pairs.csv", "out": f"{tmp_path}/out", "steps": 2}
    run(settings)
    codes = {key: row["code"] for key, row in rows_by_key(settings).items()}
    assert codes == {"crossed": None, "gone": Code.MISSING_SOURCE}


def test_batches_and_order_do_not_choose_the_pictures(tmp_path):
    for name in ("one", "three"):
        make_archive(tmp_path / name, 6)
    run(job_settings(tmp_path / "one", batch=1))
    run(job_settings(tmp_path / "three", batch=3, chunk_pairs=6))
    for path in sorted((tmp_path / "one/out/fused/adaptive").iterdir()):
        one = np.asarray(Image.open(path), dtype=int)
        three = np.asarray(Image.open(tmp_path / "three/out/fused/adaptive" / path.name), dtype=int)
        assert np.abs(one - three).max() <= 1


def test_sixteen_bits_on_request(tmp_path):
    settings = job_settings(make_archive(tmp_path, 1), bit_depth=16)
    run(settings)
    content = (tmp_path / "out/fused/adaptive/000.png").read_bytes()
    assert content[24] == 16  # the bit depth in a PNG's header


def test_in_memory(tmp_path):
    import fsspec

    make_archive(tmp_path, 2)
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/ir/", "/test-archive/ir/", recursive=True)
    memory.put(f"{tmp_path}/vi/", "/test-archive/vi/", recursive=True)
    settings = {"first": "memory://test-archive/ir", "second": "memory://test-archive/vi",
                "out": "memory://test-archive/out", "steps": 2}  # fmt: skip
    (summary,) = run(settings)
    assert summary.count(Status.OK) == 2
    assert run(settings) == []
    assert memory.exists("/test-archive/out/fused/adaptive/000.png")


def test_an_empty_folder_is_a_wrong_configuration(tmp_path):
    make_archive(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="no files below"):
        run(job_settings(tmp_path, first=f"{tmp_path}/empty"))


def test_a_missing_folder_stops_the_run(tmp_path):
    make_archive(tmp_path, 1)
    with pytest.raises(StorageError, match="absent"):
        run(job_settings(tmp_path, first=f"{tmp_path}/absent"))


def test_what_a_run_is_to_look_at(tmp_path):
    settings = job_settings(make_archive(tmp_path, 6))
    (summary,) = run(settings | {"only": ["00[0-3]"], "limit": 2})
    assert sorted(rows_by_key(settings)) == ["000", "001"]
    plan = json.loads((tmp_path / f"out/_ddfm/runs/{summary.settings.run.run_id}/plan.json").read_text())
    assert (plan["found"], plan["new"], plan["left_out"], plan["vanished"]) == (6, 2, 4, 0)
    os.utime(tmp_path / "ir/005.png", (2e9, 2e9))
    run(settings | {"since": "2030-01-01T00:00:00Z"})
    assert sorted(rows_by_key(settings)) == ["000", "001", "005"]
    assert run(settings | {"only": ["005"]}) == []
    run(settings)
    assert len(rows_by_key(settings)) == 6


def test_content_decides_what_changed_on_request(tmp_path):
    settings = job_settings(make_archive(tmp_path, 3), fingerprint="content")
    run(settings)
    for path in (tmp_path / "ir").iterdir():
        path.touch()
    assert run(settings) == []
    write_picture(tmp_path / "ir/001.png", 99)
    (summary,) = run(settings)
    assert summary.reconciliation.pairs == 1


def test_pairs_that_vanished_are_listed_and_keep_their_rows(tmp_path):
    settings = job_settings(make_archive(tmp_path, 3))
    run(settings)
    for side in ("ir", "vi"):
        (tmp_path / side / "001.png").unlink()
    assert run(settings) == []
    write_picture(tmp_path / "ir/002.png", 50)
    (summary,) = run(settings)
    vanished = pq.read_table(summary.settings.run.vanished_uri).to_pylist()
    assert [(row["pair_key"], row["output_uri"]) for row in vanished] == [
        ("001", f"{tmp_path}/out/fused/adaptive/001.png")
    ]
    assert rows_by_key(settings)["001"]["status"] == Status.OK


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_killed_run_is_resumed_with_the_same_bytes(tmp_path, chunks):
    calm = make_archive(tmp_path / "calm", 8)
    run(job_settings(calm, batch=2))
    root = make_archive(tmp_path / "killed", 8)
    command = ["fuse", f"{root}/ir", f"{root}/vi", "--out", f"{root}/out", "--steps", "2", "--batch", "2"]
    job = tmp_path / "job.yaml"
    job.write_text("out: x\nchunk_pairs: 2\n")
    command += ["--config", str(job), "--no-prefect"]
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", *command], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    runs = root / "out/_ddfm/runs"
    while time.monotonic() < deadline and process.poll() is None:
        planned = len(list(runs.glob("*/manifest.parquet"))) == 1
        if planned and len(list(runs.glob("*/results/*.parquet"))) >= chunks:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    answer = ddfm(*command)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert pictures(root / "out/fused") == pictures(calm / "out/fused")
    rows = pq.read_table(root / "out/_ddfm/metrics/current")
    assert sorted(rows["pair_key"].to_pylist()) == [f"{number:03}" for number in range(8)]
    assert "nothing to do" in ddfm(*command).stdout
