from __future__ import annotations

from pathlib import Path

import pytest

from tasks.codes import Code, ConfigurationError
from tasks.index import EmptyArchive, IndexedPair
from tasks.volume_index import Kind, PairSources, VolumeIndex, index_dicom_archive
from tests.volume_archives import instance, uid, write, write_nifti, write_series


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "root")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def index(
    root: str, scratch: Path, modalities: tuple[str, str] = ("CT", "MR")
) -> list[tuple[IndexedPair, PairSources]]:
    return rows_of(index_dicom_archive(root, scratch, modalities))


def rows_of(found: VolumeIndex) -> list[tuple[IndexedPair, PairSources]]:
    pairs, sources = list(found.index.pairs()), list(found.pair_sources())
    keys = [pair.pair_key for pair in pairs]
    assert keys == sorted(set(keys), key=str.encode) == [row.pair_key for row in sources]
    return list(zip(pairs, sources, strict=True))


def outcomes(rows: list[tuple[IndexedPair, PairSources]]) -> list[tuple[Code | None, int, int]]:
    """Code and numbers of files, of all rows."""
    return sorted(
        ((pair.code, len(row.first_uris), len(row.second_uris)) for pair, row in rows), key=lambda entry: str(entry)
    )


def test_series_that_share_a_frame_of_reference(root: str, scratch: Path) -> None:
    ct = write_series(root, "x", "CT", 3, patient="P1", study="1", series="ct", frame="f", IssuerOfPatientID="H")
    pt = write_series(root, "y", "PT", 4, patient="P1", study="2", series="pt", frame="f", IssuerOfPatientID="H")
    ((pair, sources),) = index(root, scratch, ("PET", "CT"))
    assert pair.pair_key == "/".join((uid("2"), uid("2", "pt"), uid("1"), uid("1", "ct")))
    assert sources == PairSources(pair.pair_key, tuple(pt), tuple(ct), Kind.DICOM, Kind.DICOM, "PT", "CT", "H|P1")
    assert pair.code is None


@pytest.mark.parametrize("frames", [("f", "g"), (None, "g"), (None, None)])
def test_one_of_each_in_a_study_without_a_common_frame(
    root: str, scratch: Path, frames: tuple[str | None, str | None]
) -> None:
    write_series(root, "x", "CT", 3, series="ct", frame=frames[0])
    write_series(root, "y", "MR", 4, series="mr", frame=frames[1])
    ((pair, sources),) = index(root, scratch)
    assert pair.pair_key == "/".join((uid("study"), uid("study", "ct"), uid("study", "mr")))
    assert (pair.code, sources.first_modality, sources.second_modality) == (None, "CT", "MR")


def test_several_candidates_are_one_row(root: str, scratch: Path) -> None:
    for number in range(2):
        write_series(root, f"ct{number}", "CT", 3, series=f"ct{number}", frame="f")
    write_series(root, "mr", "MR", 4, series="mr", frame="f")
    ((pair, sources),) = index(root, scratch)
    assert (pair.code, pair.detail) == (Code.AMBIGUOUS_PAIR, "2 CT and 1 MR share a frame of reference")
    assert (sources.first_uris, sources.first_kind) == ((), Kind.DICOM)
    for number in range(2):
        write_series(root, f"ct{number}", "CT", 3, series=f"ct{number}", frame=f"f{number}")
    write_series(root, "mr", "MR", 4, series="mr", frame="g")
    ((pair, _),) = index(root, scratch)
    assert (pair.code, pair.detail) == (
        Code.AMBIGUOUS_PAIR, "2 CT and 1 MR of one study, without a common frame of reference",
    )  # fmt: skip


def test_a_row_does_not_depend_on_the_order_of_listing(tmp_path: Path, scratch: Path) -> None:
    found = []
    for number, names in enumerate((("a", "b", "c"), ("c", "b", "a"))):
        root = str(tmp_path / str(number))
        for name, (kind, series) in zip(names, (("CT", "1"), ("CT", "2"), ("MR", "3")), strict=True):
            write_series(root, name, kind, series=series)
        found.append([(pair.pair_key, pair.code, pair.detail) for pair, _ in index(root, scratch)])
    assert found[0] == found[1]


def test_what_is_left_over_beside_a_pair(root: str, scratch: Path) -> None:
    write_series(root, "a", "CT", 3, series="ct1", frame="f")
    write_series(root, "b", "MR", 4, series="mr1", frame="f")
    write_series(root, "c", "CT", 5, series="ct2", frame="g")
    rows = index(root, scratch)
    assert outcomes(rows) == [(Code.NO_PARTNER, 5, 0), (None, 3, 4)]
    write_series(root, "d", "MR", 6, series="mr2", frame="h")
    assert outcomes(index(root, scratch)) == [(Code.AMBIGUOUS_PAIR, 5, 6), (None, 3, 4)]


def test_nothing_pairs_across_patients_or_issuers(root: str, scratch: Path) -> None:
    write_series(root, "a", "CT", 3, patient="P1", study="1", frame="f")
    write_series(root, "b", "MR", 3, patient="P2", study="2", frame="f")
    write_series(root, "c", "CT", 3, patient="P3", study="3", frame="f", IssuerOfPatientID="H1")
    write_series(root, "d", "MR", 3, patient="P3", study="4", frame="f", IssuerOfPatientID="H2")
    rows = index(root, scratch)
    assert {pair.code for pair, _ in rows} == {Code.NO_PARTNER}
    assert len(rows) == 4


def test_without_a_patient_only_within_a_study(root: str, scratch: Path) -> None:
    write_series(root, "a", "CT", 3, patient="", study="1", series="ct", frame="f")
    write_series(root, "b", "MR", 4, patient="", study="1", series="mr", frame="f")
    write_series(root, "c", "CT", 5, patient="", study="2", series="ct", frame="f")
    write_series(root, "d", "MR", 6, patient="", study="3", series="mr", frame="f")
    rows = index(root, scratch)
    assert outcomes(rows) == [(Code.NO_PARTNER, 0, 6), (Code.NO_PARTNER, 5, 0), (None, 3, 4)]
    assert {row.patient for _, row in rows} == {""}


def test_a_partner_in_another_study_is_mentioned_only(root: str, scratch: Path) -> None:
    write_series(root, "a", "CT", 3, study="1", frame="f")
    write_series(root, "b", "MR", 4, study="2", frame="g")
    rows = index(root, scratch)
    assert outcomes(rows) == [(Code.NO_PARTNER, 0, 4), (Code.NO_PARTNER, 3, 0)]
    assert any("1 of the patient's others" in pair.detail for pair, _ in rows)


def test_everything_else_is_a_row(root: str, scratch: Path) -> None:
    write_series(root, "a", "CT", 3, series="ct", frame="f")
    write_series(root, "a", "MR", 4, series="mr", frame="f")  # takes the names of three slices of the CT
    write_series(root, "b", "CT", 3, series="ct", frame="f")
    write_series(root, "c", "PT", 2, series="pt", frame="f")
    write(root, "d/report", instance("SR", series="sr"))
    write(root, "d/notes.txt")
    write(root, "d/notes")
    write_nifti(root, "d/brain.nii")
    write_series(root, "e", "MR", 2, series="burned", BurnedInAnnotation="YES")
    assert outcomes(index(root, scratch)) == sorted(
        [
            (None, 3, 4), (Code.OTHER_MODALITY, 2, 0), (Code.NON_IMAGE_SOP, 1, 0), (Code.NOT_IMAGE, 1, 0),
            (Code.NOT_DICOM, 1, 0), (Code.NO_PARTNER, 1, 0), (Code.BURNED_IN, 2, 0),
        ],
        key=lambda entry: str(entry),
    )  # fmt: skip


def test_patients_within_one_series(root: str, scratch: Path) -> None:
    write_series(root, "a", "CT", 3, series="ct", frame="f")
    write(root, "a/other", instance("CT", 3, series="ct", frame="f", patient="P2"))
    write_series(root, "b", "MR", 3, series="mr", frame="f")
    rows = index(root, scratch)
    assert outcomes(rows) == [(Code.NO_PARTNER, 0, 3), (Code.PATIENT_MISMATCH, 4, 0)]
    assert sorted(row.patient for _, row in rows) == ["", "|P1"]


def test_a_bad_series_keeps_its_partner_in_its_row(root: str, scratch: Path) -> None:
    write_series(root, "a", "CT", 3, series="ct", frame="f")
    write(root, "a/turned", instance("CT", 5, series="ct", frame="f", ImageOrientationPatient=[0, 1, 0, 0, 0, 1]))
    write_series(root, "b", "MR", 3, series="mr", frame="f")
    ((pair, sources),) = index(root, scratch)
    assert pair.code == Code.AMBIGUOUS_SERIES
    assert "2 volumes of 3, 1 slices" in pair.detail
    assert (len(sources.first_uris), len(sources.second_uris)) == (4, 3)


def test_no_detail_names_anyone(root: str, scratch: Path) -> None:
    canary = "CANARY"
    for number, kind in enumerate(("CT", "MR", "PT", "SR")):
        for patient in (canary, f"{canary}2"):
            folder = f"{canary}{number}/{patient}"
            write_series(
                root, folder, kind, 2, patient=patient, study=f"{canary}{patient}", series=kind,
                SeriesDescription=canary, ReferringPhysicianName=canary, ImageComments=canary,
            )  # fmt: skip
            write(root, f"{folder}/{canary}.pdf")
    write(root, f"{canary}/bad", instance("CT", 1, series=canary, Rows=None, StudyID=canary, StudyDate="19700101"))
    rows = index(root, scratch)
    assert {pair.code for pair, _ in rows} > {None, Code.OTHER_MODALITY, Code.HEADER_INCOMPLETE}
    for pair, _ in rows:
        assert canary not in pair.detail
        assert "1970" not in pair.detail
        assert uid("study")[:10] not in pair.detail


@pytest.mark.parametrize("modalities", [("CT", "CT"), ("PET", "PT"), ("CT", "US"), ("CT", "")])
def test_modalities_that_make_no_pairs(root: str, scratch: Path, modalities: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="two different modalities"):
        index_dicom_archive(root, scratch, modalities)


def test_an_archive_without_series(root: str, scratch: Path) -> None:
    write_series(root, "a", "PT")
    with pytest.raises(EmptyArchive, match="no series of CT or MR"):
        index(root, scratch)
