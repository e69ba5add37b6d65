from __future__ import annotations

from pathlib import Path

import pytest

from tasks.codes import Code, ConfigurationError
from tasks.index import EmptyArchive, IndexedPair
from tasks.storage import absolute, join, stat_file
from tasks.volume import VolumeLimits
from tasks.volume_index import Kind, PairSources, VolumeIndex, index_volume_table
from tests.volume_archives import instance, write, write_multi_frame, write_nifti, write_series


def index(root: str, scratch: Path, *lines: str, head: str = "key,first,second", **options: object) -> VolumeIndex:
    uri = write(root, "tables/pairs.csv", "\n".join([head, *lines, ""]).encode())
    return index_volume_table(uri, scratch, **options)  # type: ignore[arg-type]


def rows_of(found: VolumeIndex) -> dict[str, tuple[IndexedPair, PairSources]]:
    pairs, sources = list(found.index.pairs()), list(found.pair_sources())
    assert [pair.pair_key for pair in pairs] == [row.pair_key for row in sources]
    return {pair.pair_key: (pair, row) for pair, row in zip(pairs, sources, strict=True)}


def test_files_and_folders_of_a_table(root: str, scratch: Path) -> None:
    ct = write_series(root, "data/1.2.3/ct", "CT", 3)
    write(root, "data/1.2.3/ct/notes.txt")
    write(root, "data/1.2.3/ct/report", instance("SR", series="sr"))
    write_nifti(root, "data/1.2.3/ct/converted.nii.gz")
    mr = write_series(root, "data/mr", "MR", 4, series="mr")
    frames = write_multi_frame(root, "data/frames", study="other")
    nifti = write_nifti(root, "data/a.nii.gz")
    found = index(
        root, scratch,
        "p1,../data/1.2.3/ct,../data/mr/",
        f",../data/mr,{absolute(nifti)}",
        "x/y,../data/frames,../data/mr",
        ",../data/1.2.3,../data/a.nii.gz",
    )  # fmt: skip
    rows = rows_of(found)
    assert {key: pair.code for key, (pair, _) in rows.items()} == {
        "p1": None, "data/mr": None, "x/y": None, "data/1.2.3": None,
    }  # fmt: skip
    assert rows["p1"][1] == PairSources("p1", tuple(ct), tuple(mr), Kind.DICOM, Kind.DICOM, "CT", "MR", "|P1")
    assert rows["data/mr"][1].second_uris == (absolute(nifti),)
    assert rows["data/mr"][0].second_fingerprint == stat_file(nifti).fingerprint
    assert rows["x/y"][1].first_uris == (frames,)
    assert rows["data/1.2.3"][1].first_uris == tuple(ct)
    kept = {path.name for path in scratch.glob("*.parquet")}
    assert kept == {"headers.parquet", "index.parquet", "sources.parquet", "table.parquet"}


def test_what_cannot_be_paired(root: str, scratch: Path) -> None:
    write_series(root, "ct", "CT", patient="P1")
    write_series(root, "mr", "MR", patient="P2", series="mr")
    write_series(root, "two/a", study="two", series="1")
    write_series(root, "two/b", study="two", series="2")
    write_series(root, "bad", study="bad", BurnedInAnnotation="YES")
    write(root, "text/notes.txt")
    write(root, "picture.png")
    write(root, "odd.dcm")
    write_nifti(root, "a.nii")
    found = index(
        root, scratch,
        "who,../ct,../mr",
        "several,../two,../a.nii",
        "bad,../a.nii,../bad",
        "empty,,../a.nii",
        "../x,../a.nii,../a.nii",
        "none,../a.nii,../none",
        "none2,../none.nii,../none",
        "text,../text,../a.nii",
        "picture,../picture.png,../a.nii",
        "odd,../odd.dcm,../a.nii",
        "same,../a.nii,../a.nii",
        "same,../ct,../mr",
        "good,../a.nii,../a.nii",
    )  # fmt: skip
    rows = rows_of(found)
    assert {key: pair.code for key, (pair, _) in rows.items()} == {
        "who": Code.PATIENT_MISMATCH,
        "several": Code.AMBIGUOUS_PAIR,
        "bad": Code.BURNED_IN,
        "empty": Code.MISSING_SOURCE,
        "unusable-..%2Fx": Code.NAME_UNUSABLE,
        "none": Code.MISSING_SOURCE,
        "none2": Code.MISSING_SOURCE,
        "text": Code.MISSING_SOURCE,
        "picture": Code.NOT_DICOM,
        "odd": Code.NOT_DICOM,
        "same": Code.AMBIGUOUS_PAIR,
        "good": None,
    }
    assert rows["several"][0].detail == "the first source: 2 DICOM series in one folder"
    assert rows["text"][0].detail == "the first source: the folder holds no DICOM series"
    assert rows["same"][0].detail == "rows 11, 12 of the table have this key"
    assert rows["bad"][0].first_fingerprint == stat_file(join(root, "a.nii")).fingerprint
    for pair, _ in rows.values():
        assert "P1" not in pair.detail
        assert "/" not in pair.detail


def test_a_folder_of_too_many_files(root: str, scratch: Path) -> None:
    write_series(root, "ct", "CT", 4)
    write_nifti(root, "a.nii")
    rows = rows_of(index(root, scratch, "a,../ct,../a.nii", limits=VolumeLimits(files=3)))
    assert rows["a"][0].code == Code.TOO_LARGE


def test_the_next_run_reads_nothing(root: str, scratch: Path, tmp_path: Path) -> None:
    write_series(root, "p/ct", "CT", 4)
    write_series(root, "mr", "MR", 3, series="mr")
    lines = ("a,../p/ct,../mr", "b,../p,../mr", "c,../p,../mr")
    found = index(root, scratch, *lines)
    expected = rows_of(found)
    assert {pair.code for pair, _ in expected.values()} == {None}
    assert found.headers is not None
    again = index(root, scratch, *lines, known=found.headers.rename(tmp_path / "known.parquet"))
    assert again.read == 0
    assert rows_of(again) == expected


def test_tables_that_are_none(root: str, scratch: Path) -> None:
    with pytest.raises(EmptyArchive):
        index(root, scratch)
    with pytest.raises(ConfigurationError, match="one column second"):
        index(root, scratch, "a,b", head="first,third")


@pytest.mark.server
def test_a_table_on_s3(s3_bucket: str, scratch: Path) -> None:
    root = f"{s3_bucket}/root"
    ct = write_series(root, "ct", "CT", 3)
    nifti = write_nifti(root, "a.nii.gz")
    rows = rows_of(index(root, scratch, "p1,../ct,../a.nii.gz", "p2,../none,../a.nii.gz"))
    assert rows["p1"][1].first_uris == tuple(ct)
    assert rows["p1"][1].second_uris == (nifti,)
    assert rows["p2"][0].code == Code.MISSING_SOURCE
