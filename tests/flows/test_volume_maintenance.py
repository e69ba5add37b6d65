"""Repair, pruning and resumption of what has a private table: volumes, and pictures in strict privacy."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.fuse_archive import run_archive
from flows.maintenance import prune_archive, verify
from flows.samples.dicom_files import DicomScan, write_dicom_series
from flows.samples.grids import slices_grid
from flows.samples.head import head_ct, head_mr
from tasks.codes import Code, ConfigurationError
from tasks.current import current_rows
from tasks.job_file import make_job
from tasks.run_folder import RunFolder, list_runs, unfinished_run
from tasks.settings import read_settings
from tests.archives import job_settings, make_archive, pictures, write_picture
from tests.runs import SilentWatcher, cut_run


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("DDFM_PSEUDONYM_SECRET", "0123456789abcdef")


def make_study(root: Path, name: str) -> None:
    """A CT and an MR series in one frame of reference."""
    for modality, head, shape in (("CT", head_ct, (6, 36, 36)), ("MR", head_mr, (5, 36, 36))):
        grid = slices_grid(shape, (20.0, 5.0, 5.0), (0, 5, 0))
        scan = DicomScan(modality, frame_of_reference=name, study=name, series=name + modality)
        write_dicom_series(root / modality / name, head(shape, grid), grid, scan)


def volumes_job(root: Path, **changes: Any) -> dict[str, Any]:
    places = {"first": f"{root}/CT", "second": f"{root}/MR", "out": f"{root}/out"}
    return places | {"steps": 1, "register": "header"} | changes


def archive_job(root: Path, name: str) -> dict[str, Any]:
    source = {"archive": f"{root}/{name}", "modality_first": "CT", "modality_second": "MR"}
    return source | {"out": f"{root}/out", "steps": 1, "register": "header"}


def strict_job(root: Path, **changes: Any) -> dict[str, Any]:
    return job_settings(root, steps=1, privacy="strict") | changes


def fuse(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The current rows after a run."""
    job = make_job(settings)
    run_archive(job, SilentWatcher())
    return current_rows(job.out, job.method_name, columns=None).to_pylist()


def fused(root: Path) -> dict[str, str]:
    return pictures(root / "out/fused")


def is_sound(root: Path) -> bool:
    return verify(f"{root}/out", deep=True, repair=False) == 0


def newest_plan(root: Path) -> list[dict[str, Any]]:
    return pq.read_table(list_runs(f"{root}/out")[-1].manifest_uri).to_pylist()


def test_broken_volumes_are_fused_again_with_the_same_bytes(tmp_path):
    for name in ("Smith", "Jones", "Brown"):
        make_study(tmp_path, name)
    settings = volumes_job(tmp_path, volumes={"also_write": ["dicom"]})
    rows = fuse(settings)
    before = fused(tmp_path)
    Path(rows[0]["output_uri"]).unlink()
    next(Path(rows[1]["extra_uris"][0]).iterdir()).unlink()
    assert verify(f"{tmp_path}/out", deep=False, repair=True) == 1
    # A volume is a commit of its own.
    assert [row["chunk_id"] for row in newest_plan(tmp_path)] == ["0000", "0001"]
    repaired = fuse(settings)
    assert [row["status"] for row in repaired] == ["ok"] * 3
    assert len({row["run_id"] for row in repaired}) == 2
    assert fused(tmp_path) == before
    assert is_sound(tmp_path)


def test_a_folder_beside_a_volume_has_a_file_for_each_slice(tmp_path, capsys):
    make_study(tmp_path, "Smith")
    (row,) = fuse(volumes_job(tmp_path, volumes={"also_write": ["dicom", "png"]}))
    series, slices = (Path(uri) for uri in row["extra_uris"])
    out = f"{tmp_path}/out"
    assert verify(out, deep=False, repair=False) == 0
    files = sorted(series.iterdir())
    content = files[3].read_bytes()
    files[3].unlink()
    for deep in (False, True):
        assert verify(out, deep=deep, repair=False) == 1
        assert "1 different_output" in capsys.readouterr().out
    files[3].write_bytes(content)
    assert verify(out, deep=False, repair=False) == 0
    (slices / "9999.png").write_bytes(b"?")
    capsys.readouterr()
    assert verify(out, deep=False, repair=False) == 1
    assert "1 different_output" in capsys.readouterr().out
    for file in slices.iterdir():
        file.unlink()
    for deep in (False, True):
        assert verify(out, deep=deep, repair=False) == 1
        assert "1 missing_output" in capsys.readouterr().out


def test_a_repair_takes_each_pair_from_the_private_table_of_its_run(tmp_path, capsys):
    make_archive(tmp_path, 2)
    (tmp_path / "moved").mkdir()
    fuse(strict_job(tmp_path, private=f"{tmp_path}/moved"))
    for side, seed in (("ir", 20), ("vi", 21)):
        write_picture(tmp_path / side / "late.png", seed, colour=side == "vi")
    rows = fuse(strict_job(tmp_path))
    first_run, second_run = list_runs(f"{tmp_path}/out")
    assert {row["run_id"] for row in rows} == {first_run.run_id, second_run.run_id}
    before = fused(tmp_path)
    for row in rows:
        Path(row["output_uri"]).unlink()
    assert verify(f"{tmp_path}/out", deep=False, repair=True) == 1
    assert "planned for 3 pairs" in capsys.readouterr().out
    assert {row["status"] for row in fuse(strict_job(tmp_path))} == {"ok"}
    assert fused(tmp_path) == before
    assert is_sound(tmp_path)


def test_pairs_of_a_lost_private_table_are_left_out_of_a_repair(tmp_path, capsys):
    make_archive(tmp_path, 2)
    settings = strict_job(tmp_path)
    fuse(settings)
    for side, seed in (("ir", 20), ("vi", 21)):
        write_picture(tmp_path / side / "late.png", seed, colour=side == "vi")
    rows = fuse(settings)
    before = fused(tmp_path)
    for row in rows:
        Path(row["output_uri"]).unlink()
    tables = [Path(read_settings(run).private_uri) for run in list_runs(f"{tmp_path}/out")]
    contents = [table.read_bytes() for table in tables]
    for table in tables:
        table.unlink()
    verify(f"{tmp_path}/out", deep=False, repair=True)
    told = capsys.readouterr().out.replace("\n", " ")
    assert "3 pairs of adaptive are left: the private tables" in told
    assert "planned" not in told
    assert "nothing that a fusion would repair" not in told
    assert len(list_runs(f"{tmp_path}/out")) == 2

    tables[1].write_bytes(contents[1])
    verify(f"{tmp_path}/out", deep=False, repair=True)
    told = capsys.readouterr().out
    assert "2 pairs of adaptive are left" in told
    assert "planned for 1 pairs of adaptive" in told
    fuse(settings)
    tables[0].write_bytes(contents[0])
    verify(f"{tmp_path}/out", deep=False, repair=True)
    assert "planned for 2 pairs of adaptive" in capsys.readouterr().out
    fuse(settings)
    assert fused(tmp_path) == before
    assert is_sound(tmp_path)


def test_rows_of_pseudonyms_are_left_out_of_a_repair_without_a_private_table(tmp_path, capsys):
    """Both runs have one method and the same settings of pixels."""
    make_archive(tmp_path, 1)
    fuse(strict_job(tmp_path))
    rows = fuse(strict_job(tmp_path, privacy="off"))
    assert sorted(row["status"] for row in rows) == ["ok", "ok"]
    for row in rows:
        Path(row["output_uri"]).unlink()
    verify(f"{tmp_path}/out", deep=False, repair=True)
    assert "planned for 1 pairs" in capsys.readouterr().out
    assert [row["pair_key"] for row in newest_plan(tmp_path)] == ["000"]


def cut(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that ends before its second commit."""
    cut_run(monkeypatch, settings, 1)
    left = unfinished_run(str(settings["out"]), "adaptive")
    assert left is not None
    return left


def test_a_run_whose_private_table_is_gone_is_given_up(tmp_path, monkeypatch, caplog):
    make_archive(tmp_path, 5)
    settings = strict_job(tmp_path)
    left = cut(settings, monkeypatch)
    assert len(current_rows(settings["out"], "adaptive")) == 2
    Path(read_settings(left).private_uri).unlink()
    with caplog.at_level(logging.WARNING):
        rows = fuse(settings)
    (told,) = [record.getMessage() for record in caplog.records if "not resumed" in record.getMessage()]
    assert left.run_id in told
    assert str(tmp_path) not in told
    assert [row["status"] for row in rows] == ["ok"] * 5
    assert [row["run_id"] == left.run_id for row in rows].count(True) == 2
    assert is_sound(tmp_path)


def test_a_run_that_is_given_up_keeps_nobody_waiting(tmp_path, monkeypatch, capsys):
    make_archive(tmp_path, 5)
    settings = strict_job(tmp_path)
    left = cut(settings, monkeypatch)
    row, _ = current_rows(settings["out"], "adaptive", None).to_pylist()
    Path(row["output_uri"]).unlink()
    table = Path(read_settings(left).private_uri)
    content = table.read_bytes()
    for command in ("prune", "repair"):
        with pytest.raises(ConfigurationError, match="is not finished"):
            maintain(command, settings)
    table.unlink()
    maintain("prune", settings)
    assert "0 pairs without sources" in capsys.readouterr().out
    maintain("repair", settings)
    assert "1 pairs of adaptive are left" in capsys.readouterr().out
    # What the run had left is planned anew, and once its table is back, what it had committed can be repaired.
    fuse(settings)
    table.write_bytes(content)
    maintain("repair", settings)
    assert "planned for 1 pairs of adaptive" in capsys.readouterr().out
    fuse(settings)
    assert is_sound(tmp_path)
    assert len(fused(tmp_path)) == 5


def maintain(command: str, settings: dict[str, Any]) -> None:
    if command == "repair":
        verify(settings["out"], deep=False, repair=True)
    else:
        prune_archive(make_job(settings), True, 0.5)


def test_pruning_one_archive_leaves_the_results_of_another(tmp_path, capsys):
    for archive, name in (("A", "one"), ("A", "two"), ("AB", "three")):
        for modality in ("CT", "MR"):
            make_study(tmp_path / "made", name)
            (tmp_path / archive / name).mkdir(parents=True, exist_ok=True)
            shutil.move(tmp_path / "made" / modality / name, tmp_path / archive / name / modality)
    fuse(archive_job(tmp_path, "A"))
    rows = fuse(archive_job(tmp_path, "AB"))
    assert [row["status"] for row in rows] == ["ok"] * 3
    before = fused(tmp_path)
    job = make_job(archive_job(tmp_path, "A"))
    assert prune_archive(job, True, 0.5) == 0
    assert "0 pairs without sources" in capsys.readouterr().out
    assert fused(tmp_path) == before
    shutil.rmtree(tmp_path / "A" / "two")
    assert prune_archive(job, True, 0.5) == 0
    assert "1 pairs without sources" in capsys.readouterr().out
    assert len(fused(tmp_path)) == 2
    rows = current_rows(job.out, job.method_name, columns=None).to_pylist()
    assert sorted(str(row["code"]) for row in rows) == ["None", "None", Code.VANISHED]
