from __future__ import annotations

from pathlib import Path

import pytest

from tasks.codes import Code
from tasks.index import EmptyArchive, IndexedPair
from tasks.storage import join, remove, stat_file
from tasks.volume import VolumeLimits
from tasks.volume_index import Kind, PairSources, VolumeIndex, index_volume_folders
from tests.volume_archives import instance, write, write_multi_frame, write_nifti, write_series


def index(root: str, scratch: Path, **options: object) -> VolumeIndex:
    return index_volume_folders(join(root, "first"), join(root, "second"), scratch, **options)  # type: ignore[arg-type]


def rows_of(found: VolumeIndex) -> dict[str, tuple[IndexedPair, PairSources]]:
    pairs, sources = list(found.index.pairs()), list(found.pair_sources())
    keys = [pair.pair_key for pair in pairs]
    assert keys == sorted(keys, key=str.encode) == [row.pair_key for row in sources]
    assert len(set(keys)) == len(keys) == found.index.rows
    return {pair.pair_key: (pair, row) for pair, row in zip(pairs, sources, strict=True)}


def test_nifti_files_and_dicom_series_pair_by_stem(root: str, scratch: Path) -> None:
    first = write_nifti(root, "first/sub/a.nii.gz")
    second = write_nifti(root, "second/sub/a.nii")
    ct = write_series(root, "first/p1", "CT", 4, patient="P1", study="s1")
    mr = write_series(root, "second/p1", "MR", 3, patient="P1", study="s1", series="mr", IssuerOfPatientID="H")
    nifti = write_nifti(root, "first/p2/t1.nii")
    frames = write_multi_frame(root, "second/p2/t1.dcm", study="s2")
    found = index(root, scratch)
    rows = rows_of(found)
    assert rows.keys() == {"sub/a", "p1", "p2/t1"}
    assert all(pair.code is None for pair, _ in rows.values())
    assert rows["sub/a"][1] == PairSources("sub/a", (first,), (second,), Kind.NIFTI, Kind.NIFTI, "", "", "")
    pair, sources = rows["p1"]
    assert (sources.first_uris, sources.second_uris) == (tuple(ct), tuple(mr))
    assert (sources.first_kind, sources.first_modality, sources.second_modality) == (Kind.DICOM, "CT", "MR")
    assert (pair.first_uri, pair.first_size) == (join(root, "first/p1"), sum(stat_file(uri).size for uri in ct))
    assert pair.modified == max(stat_file(uri).modified for uri in (*ct, *mr))
    assert rows["p2/t1"][1] == PairSources(
        "p2/t1", (nifti,), (frames,), Kind.NIFTI, Kind.DICOM, "", "MR", "|P1"
    )  # fmt: skip
    assert rows["p2/t1"][0].second_fingerprint == stat_file(frames).fingerprint
    assert sorted(path.name for path in scratch.iterdir()) == ["headers.parquet", "index.parquet", "sources.parquet"]


def test_two_folders_that_are_a_series_each(root: str, scratch: Path) -> None:
    write_series(root, "first", "CT")
    write_series(root, "second", "MR", series="mr")
    assert rows_of(index(root, scratch)).keys() == {"volume"}


def test_a_fingerprint_follows_the_files_and_not_their_names(tmp_path: Path, scratch: Path) -> None:
    root = str(tmp_path)
    uris = write_series(root, "first/a", "CT", 4)
    write_nifti(root, "second/a.nii")
    before = rows_of(index(root, scratch))["a"][0].first_fingerprint
    for number, uri in enumerate(uris):
        Path(uri).rename(Path(uri).with_name(f"renamed{9 - number}"))
    renamed = rows_of(index(root, scratch))["a"]
    assert renamed[0].first_fingerprint == before
    assert renamed[1].first_uris == tuple(join(root, f"first/a/renamed{9 - number}") for number in range(4))
    remove(renamed[1].first_uris[0])
    assert rows_of(index(root, scratch))["a"][0].first_fingerprint != before
    again = rows_of(index(root, scratch))["a"][0].first_fingerprint
    write(root, "first/a/renamed7", instance("CT", 2, SeriesDescription="changed"))
    assert rows_of(index(root, scratch))["a"][0].first_fingerprint != again


def test_what_cannot_be_paired_is_a_row(root: str, scratch: Path) -> None:
    write_nifti(root, "first/pair.nii")
    write_nifti(root, "second/pair.nii")
    write_nifti(root, "first/twice.nii")
    write_series(root, "first/twice", study="t")
    write_nifti(root, "second/twice.nii.gz")
    write_series(root, "first/several", series="1", study="u")
    for number in range(2):
        write(root, f"first/several/b{number}", instance("CT", number, series="2", study="u"))
    write_series(root, "second/several", study="v")
    write_nifti(root, "first/lone.nii")
    write_series(root, "second/other/lone", study="w")
    write_series(root, "first/echoes", "MR", study="x")
    write(root, "first/echoes/more", instance("MR", 1, study="x", EchoTime=90))
    write_nifti(root, "second/echoes.nii")
    write_series(root, "first/who", study="y", patient="P1")
    write_series(root, "second/who", "MR", study="y", series="mr", patient="P2")
    for side in ("first", "second"):
        write(root, f"{side}/notes.txt")
        write(root, f"{side}/who/report", instance("SR", study="z", series=side))
    write(root, "second/README")
    rows = {key: pair for key, (pair, _) in rows_of(index(root, scratch)).items()}
    assert {key: row.code for key, row in rows.items()} == {
        "pair": None,
        "twice": Code.AMBIGUOUS_PAIR,
        "several": Code.AMBIGUOUS_PAIR,
        "lone": Code.NO_PARTNER,
        "other/lone": Code.NO_PARTNER,
        "echoes": Code.AMBIGUOUS_SERIES,
        "who": Code.PATIENT_MISMATCH,
        "notes.txt": Code.NOT_IMAGE,
        "who/report": Code.NON_IMAGE_SOP,
        "README": Code.NOT_DICOM,
    }
    assert rows["twice"].detail == "first: 1 DICOM series, 1 NIfTI files"
    assert rows["echoes"].detail == "the first source: 2 volumes of 3, 1 slices; EchoTime differs"
    assert rows["notes.txt"].first_uri is not None
    assert rows["notes.txt"].second_uri is not None
    assert not any("P1" in row.detail or "P2" in row.detail for row in rows.values())


def test_a_key_that_two_rows_want_goes_to_the_volume(root: str, scratch: Path) -> None:
    for side in ("first", "second"):
        write_nifti(root, f"{side}/notes.txt.nii")
        write_nifti(root, f"{side}/notes.txt~.nii")
    write(root, "first/notes.txt")
    rows = rows_of(index(root, scratch))
    assert {key: pair.code for key, (pair, _) in rows.items()} == {
        "notes.txt": None, "notes.txt~": None, "notes.txt~~": Code.NOT_IMAGE,
    }  # fmt: skip


@pytest.mark.parametrize("attributes", [{"Rows": None}, {"BurnedInAnnotation": "YES"}])
def test_one_bad_file_makes_its_series_bad(root: str, scratch: Path, attributes: dict[str, object]) -> None:
    write_series(root, "first/a", "CT", 5)
    write(root, "first/a/IM0010", instance("CT", 1, **attributes))  # type: ignore[arg-type]
    write_nifti(root, "second/a.nii")
    pair, sources = rows_of(index(root, scratch))["a"]
    assert pair.code in (Code.HEADER_INCOMPLETE, Code.BURNED_IN)
    assert pair.detail.startswith("the first source: 1 of 5 files")
    assert len(sources.first_uris) == 4


def test_a_broken_file_beside_the_only_series_of_a_folder(tmp_path: Path, scratch: Path) -> None:
    root = str(tmp_path)
    for name in "abc":
        write_series(root, f"first/{name}", study=name)
        write_nifti(root, f"second/{name}.nii")
    (tmp_path / "first/a/IM0024").symlink_to(tmp_path / "nowhere")
    write(root, "first/b/IM0024", instance("CT", 3, study="b")[:150])  # cut inside of its meta information
    write(root, "first/c/README", b"not DICOM")
    rows = rows_of(index(root, scratch))
    assert {key: pair.code for key, (pair, _) in rows.items()} == {
        "a": Code.MISSING_SOURCE, "a/IM0024": Code.MISSING_SOURCE,
        "b": Code.HEADER_INCOMPLETE, "b/IM0024": Code.HEADER_INCOMPLETE,
        "c": None, "c/README": Code.NOT_DICOM,
    }  # fmt: skip


def test_what_is_left_alone_is_counted_by_series(root: str, scratch: Path) -> None:
    write_series(root, "first/a", "CT", 5)
    for number in range(3):
        write(
            root, f"first/a/scout{number}", instance("CT", 10 + number, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        )
    write_nifti(root, "second/a.nii")
    rows = rows_of(index(root, scratch))
    assert rows["a"][0].code is None
    assert len(rows["a"][1].first_uris) == 5
    assert (rows["a/scout0"][0].code, rows["a/scout0"][0].detail) == (Code.LOCALIZER, "3 files")


def test_a_series_of_more_files_than_allowed(root: str, scratch: Path) -> None:
    write_series(root, "first/a", "CT", 6)
    write_nifti(root, "second/a.nii")
    pair = rows_of(index(root, scratch, limits=VolumeLimits(files=5)))["a"][0]
    assert (pair.code, pair.detail) == (Code.TOO_LARGE, "the first source: 6 files, 5 are allowed")


def test_a_side_without_volumes(root: str, scratch: Path) -> None:
    write_nifti(root, "first/a.nii")
    write(root, "second/a.txt")
    with pytest.raises(EmptyArchive, match="no DICOM series"):
        index(root, scratch)


def test_the_next_run_reads_nothing(root: str, scratch: Path, tmp_path: Path) -> None:
    write_series(root, "first/a", "CT", 5)
    write_series(root, "second/a", "MR", series="mr")
    found = index(root, scratch)
    assert found.read == 8
    assert found.headers is not None
    known = found.headers.rename(tmp_path / "known.parquet")
    expected = rows_of(found)
    again = index(root, scratch, known=known)
    assert again.read == 0
    assert rows_of(again) == expected


def test_one_patient_of_whom_only_one_side_names_the_issuer(root: str, scratch: Path) -> None:
    for key, first, second in (("p1", {}, {"IssuerOfPatientID": "H"}), ("p2", {"IssuerOfPatientID": "H"}, {})):
        write_series(root, f"first/{key}", "CT", 3, patient="P1", study=f"{key}a", series=f"{key}c", **first)
        write_series(root, f"second/{key}", "MR", 3, patient="P1", study=f"{key}b", series=f"{key}m", **second)
    rows = rows_of(index(root, scratch))
    assert [pair.code for pair, _ in rows.values()] == [None, None]
    assert [sources.patient for _, sources in rows.values()] == ["H|P1", "H|P1"]
