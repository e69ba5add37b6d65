"""The private table of a run: what it holds, who may read it, and what reading it leaves behind."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.codes import Code
from tasks.index import IndexedPair
from tasks.job_file import make_job
from tasks.manifest import manifest_rows
from tasks.plan import plan
from tasks.private_sources import locate, write_private, write_sources
from tasks.rows import ManifestRow, SourceRow
from tasks.run_folder import new_run
from tasks.schemas import PRIVATE_SCHEMA, RESULT_SCHEMA, private_table
from tasks.settings import RunSettings
from tasks.storage import StorageError, join
from tasks.tables import TableWriter, read_table
from tests.runs import make_index


def source(key: str, files: int = 3) -> SourceRow:
    uris = [tuple(f"/a/{side}/{key}/IM{place:04d}.dcm" for place in range(files)) for side in ("ct", "mr")]
    return SourceRow(
        pair_key=key, first_uris=uris[0], second_uris=uris[1], first_kind="dicom", second_kind="dicom", uid_key="secret"
    )


def sources_file(folder: Path, rows: list[SourceRow]) -> Path:
    path = folder / "sources.parquet"
    with TableWriter(path, PRIVATE_SCHEMA, rows=512) as writer:
        writer.write(private_table(rows))
    return path


def settings_of(dest: str, **changes: object) -> RunSettings:
    job = {"first": "/a/ct", "second": "/a/mr", "out": dest, "kind": "volumes", "privacy": "strict"}
    return RunSettings(new_run(dest), make_job(job | changes), "config", "prior")


def planned_rows(folder: Path, pairs: list[IndexedPair]) -> tuple[Path, list[ManifestRow]]:
    index = make_index(pairs, folder)
    planned = plan(index, [RESULT_SCHEMA.empty_table()], "c", chunk_pairs=1, shard_pairs=2, scratch=folder)
    return planned.manifest.path, list(manifest_rows(pq.read_table(planned.manifest.path)))


def pair(key: str, code: Code | None = None) -> IndexedPair:
    return IndexedPair(key, f"/a/ct/{key}", f"/a/mr/{key}", "1-1", "1-2", 1, 1, code)


def test_a_plan_gets_its_own_sources_and_no_others(tmp_path, dest):
    keys = [f"{number:04d}" for number in range(1000)]
    wanted = [pair(key, None if number % 2 else Code.NO_PARTNER) for number, key in enumerate(keys) if number % 3]
    manifest, rows = planned_rows(tmp_path, wanted)
    settings = settings_of(dest)
    write_sources(settings, sources_file(tmp_path, [source(key) for key in keys]), manifest, tmp_path)
    assert read_table(settings.private_uri, PRIVATE_SCHEMA)["pair_key"].to_pylist() == [one.pair_key for one in wanted]
    assert locate(settings, rows) == {row.pair_key: source(row.pair_key) for row in rows}


def test_a_plan_of_pairs_without_sources_is_refused(tmp_path, dest):
    manifest, _ = planned_rows(tmp_path, [pair("a"), pair("b"), pair("z", Code.NO_PARTNER)])
    settings = settings_of(dest)
    with pytest.raises(StorageError, match="no sources for"):
        write_sources(settings, sources_file(tmp_path, [source("a"), source("c")]), manifest, tmp_path)


def test_one_pair_is_read_without_the_files_of_all_others(tmp_path):
    keys = [f"{number:04d}" for number in range(800)]
    manifest, _ = planned_rows(tmp_path, [pair(key) for key in keys])
    settings = settings_of(str(tmp_path / "out"))
    write_sources(settings, sources_file(tmp_path, [source(key, 300) for key in keys]), manifest, tmp_path)
    with pq.ParquetFile(settings.private_uri) as file:
        assert file.num_row_groups >= 5
        assert max(file.read_row_group(number).nbytes for number in range(file.num_row_groups)) < 6 * 2**20


def test_in_a_local_place_nobody_else_may_look(tmp_path):
    before = os.umask(0o022)
    try:
        manifest, _ = planned_rows(tmp_path, [pair("a")])
        settings = settings_of(str(tmp_path / "out"))
        write_sources(settings, sources_file(tmp_path, [source("a")]), manifest, tmp_path)
        file = Path(settings.private_uri)
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert file.parent.parent.stat().st_mode & 0o777 == 0o755
        shared = tmp_path / "shared"
        shared.mkdir(0o750)
        write_private(str(shared / "headers.parquet"), manifest)
        assert (shared.stat().st_mode & 0o777, (shared / "headers.parquet").stat().st_mode & 0o777) == (0o750, 0o600)
    finally:
        os.umask(before)


def test_a_remote_table_leaves_no_names_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    dest = join(f"memory://{tmp_path.name}", "out")
    manifest, rows = planned_rows(tmp_path, [pair(f"{number:03d}") for number in range(60)])
    settings = settings_of(dest)
    write_sources(settings, sources_file(tmp_path, [source(row.pair_key, 200) for row in rows]), manifest, tmp_path)
    # Of several readers at once: they share one copy.
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: locate(settings, [row]), rows))
    assert found == [{row.pair_key: source(row.pair_key, 200)} for row in rows]
    assert not list((tmp_path / "tmp").iterdir())


def test_a_missing_table_is_said_with_what_to_do(tmp_path, dest):
    _, rows = planned_rows(tmp_path, [pair("a")])
    with pytest.raises(StorageError, match=r"does not exist; .*restore the run's private table"):
        locate(settings_of(dest), rows)


def test_a_source_shows_no_names():
    one = source("SMITH")
    shown = repr(SourceRow(**{**vars(one), "pair_key": "k", "patient": "H|SMITH"}))
    assert "SMITH" not in shown
    assert "secret" not in shown
