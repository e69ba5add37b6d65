"""What leaves an index in strict privacy, and the table that leads back."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.codes import Code
from tasks.index import Index, IndexedPair
from tasks.job_file import make_job
from tasks.manifest import manifest_rows, read_manifest, write_manifest
from tasks.plan import plan
from tasks.privacy import Pseudonyms
from tasks.private_sources import locate, write_sources
from tasks.pseudonymise import pseudonymise
from tasks.run_folder import new_run
from tasks.schemas import INDEX_SCHEMA, PRIVATE_SCHEMA, RESULT_SCHEMA
from tasks.settings import RunSettings
from tasks.storage import StorageError
from tasks.tables import TableWriter
from tasks.volume_index import SOURCES_SCHEMA, Kind, PairSources
from tasks.volume_index.sources import sources_table
from tests.runs import make_index

PSEUDONYMS = Pseudonyms(b"0123456789abcdef")
PAIRS = [
    IndexedPair("Adams", "/a/ct/Adams.png", "/a/mr/Adams.png", "1-7", "2-8", 1, 2, modified=5.0),
    IndexedPair("Brown", "/a/ct/Brown.png", None, "1-9", None, 1, None, Code.NO_PARTNER, "Brown.png has none"),
    IndexedPair("Clark", "/a/ct/Clark.png", "/a/mr/Clark.png", "1-3", "2-4", 1, 2),
]


def hidden(tmp_path: Path):
    return pseudonymise(make_index(PAIRS, tmp_path), None, ("/a/ct", "/a/mr"), PSEUDONYMS, tmp_path, hide=True)


def test_nothing_below_the_roots_is_left_in_the_index(tmp_path):
    archive = hidden(tmp_path)
    table = pq.read_table(archive.index.path)
    assert table.schema.equals(INDEX_SCHEMA)
    text = str(table.to_pylist())
    assert not any(name in text for name in ("Adams", "Brown", "Clark", "1-7", "2-8"))
    rows = table.to_pylist()
    assert [row["pair_key"] for row in rows] == sorted(PSEUDONYMS.of("pair", pair.pair_key) for pair in PAIRS)
    whole = next(row for row in rows if row["pair_key"] == PSEUDONYMS.of("pair", "Adams"))
    assert whole["first_uri"] == "/a/ct/" + PSEUDONYMS.of("uri", "/a/ct/Adams.png")
    assert (whole["first_size"], whole["modified"], whole["code"]) == (1, 5.0, None)
    lone = next(row for row in rows if row["pair_key"] == PSEUDONYMS.of("pair", "Brown"))
    assert (lone["code"], lone["detail"], lone["second_uri"], lone["second_fingerprint"]) == (
        "no_partner",
        "",
        None,
        None,
    )


def test_another_fingerprint_stays_another(tmp_path):
    changed = [PAIRS[0], PAIRS[1], IndexedPair("Clark", "/a/ct/Clark.png", "/a/mr/Clark.png", "1-4", "2-4", 1, 2)]
    before = pq.read_table(hidden(tmp_path).index.path).to_pylist()
    folder = tmp_path / "later"
    folder.mkdir()
    archive = pseudonymise(make_index(changed, folder), None, ("/a/ct", "/a/mr"), PSEUDONYMS, folder, hide=True)
    after = pq.read_table(archive.index.path).to_pylist()
    key = PSEUDONYMS.of("pair", "Clark")
    assert [row["pair_key"] for row, was in zip(after, before, strict=True) if row != was] == [key]


@pytest.mark.parametrize("private", [None, "elsewhere"])
def test_the_private_table_leads_back_for_the_pairs_of_the_plan(tmp_path, dest, private):
    archive = hidden(tmp_path)
    planned = plan(
        archive.index, [RESULT_SCHEMA.empty_table()], "config", chunk_pairs=1, shard_pairs=1, scratch=tmp_path
    )
    job = {"first": "/a/ct", "second": "/a/mr", "out": dest, "privacy": "strict"}
    job |= {"private": str(tmp_path / private)} if private else {}
    settings = RunSettings(new_run(dest), make_job(job), "config", "prior")
    write_sources(settings, archive.sources, planned.manifest.path, tmp_path)
    write_manifest(settings.run, planned.manifest.path)
    if private:
        table = pq.read_table(tmp_path / private / f"{settings.run.run_id}.parquet")
        assert table.schema.equals(PRIVATE_SCHEMA)
        assert len(table) == 3
    for shard_id in planned.manifest.fuse_shards:
        rows = list(manifest_rows(read_manifest(settings.run, shard_id)))
        found = locate(settings, rows)
        assert found.keys() == {row.pair_key for row in rows}
        for source in found.values():
            (uri,) = source.first_uris
            assert source.pair_key == PSEUDONYMS.of("pair", uri.removeprefix("/a/ct/").removesuffix(".png"))
    strange = rows[0].__class__(**{**vars(rows[0]), "pair_key": "strange"})
    with pytest.raises(StorageError, match="lacks 1 pairs"):
        locate(settings, [strange])


def volumes_of(scratch: Path, count: int, files: int) -> tuple[Index, Path, dict[str, PairSources]]:
    """An index of pairs of DICOM series, of which every third has no patient, and its sources in clear."""
    keys = [f"patient-{number:05d}/head" for number in range(count)]
    pairs = [IndexedPair(key, f"/a/ct/{key}", f"/a/mr/{key}", f"1-{key}", f"2-{key}", 1, 2) for key in keys]
    sources = {
        key: PairSources(
            key,
            tuple(f"/a/ct/{key}/a-series-of-the-first/IM{place:05d}.dcm" for place in range(files)),
            tuple(f"/a/mr/{key}/a-series-of-the-other/IM{place:05d}.dcm" for place in range(files)),
            Kind.DICOM,
            Kind.DICOM,
            "CT",
            "MR",
            f"H|{number}" if number % 3 else "",
        )
        for number, key in enumerate(keys)
    }
    path = scratch / "sources.parquet"
    with TableWriter(path, SOURCES_SCHEMA, rows=512) as writer:
        for start in range(0, count, 512):
            writer.write(sources_table([sources[key] for key in keys[start : start + 512]]))
    return make_index(pairs, scratch), path, sources


@pytest.mark.parametrize("hide", [True, False])
def test_series_of_hundreds_of_files_in_more_pairs_than_a_database_sorts(tmp_path, dest, hide):
    index, path, clear = volumes_of(tmp_path, 1500, 200)
    archive = pseudonymise(index, path, ("/a/ct", "/a/mr"), PSEUDONYMS, tmp_path, hide=hide)
    planned = plan(
        archive.index, [RESULT_SCHEMA.empty_table()], "config", chunk_pairs=1, shard_pairs=500, scratch=tmp_path
    )
    job = {"first": "/a/ct", "second": "/a/mr", "out": dest, "kind": "volumes", "privacy": "strict" if hide else "off"}
    settings = RunSettings(new_run(dest), make_job(job), "config", "prior")
    write_sources(settings, archive.sources, planned.manifest.path, tmp_path)
    names = {PSEUDONYMS.of("pair", key) if hide else key: key for key in clear}
    rows = pq.read_table(archive.index.path).to_pylist()
    assert [row["pair_key"] for row in rows] == sorted(names)
    plain = [PSEUDONYMS.of("fingerprint", f"1-{names[row['pair_key']]}") for row in rows]
    assert [row["first_fingerprint"] for row in rows] == (plain if hide else [f"1-{row['pair_key']}" for row in rows])
    write_manifest(settings.run, planned.manifest.path)
    for shard_id in planned.manifest.fuse_shards:
        found = locate(settings, list(manifest_rows(read_manifest(settings.run, shard_id))))
        for key, source in found.items():
            expected = clear[names[key]]
            assert (source.first_uris, source.second_uris) == (expected.first_uris, expected.second_uris)
            assert (source.first_kind, source.second_modality) == ("dicom", "MR")
            who = expected.patient or f"pair {key}"
            assert source.patient == PSEUDONYMS.of("patient", who)
            assert source.uid_key == PSEUDONYMS.of("uids", who)
    assert not list(tmp_path.glob("*.arrow"))


def test_nothing_is_left_in_clear_for_want_of_pseudonyms(tmp_path):
    with pytest.raises(ValueError, match="needed to hide"):
        pseudonymise(make_index(PAIRS, tmp_path), None, ("/a/ct", "/a/mr"), None, tmp_path, hide=True)
