from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.codes import Code, ConfigurationError
from tasks.index import EmptyArchive, IndexedPair
from tasks.storage import StorageError, absolute, join
from tasks.volume_index import Kind, PairSources, index_bids
from tasks.volume_index.bids import BidsName, parse_bids_name
from tests.volume_archives import write


def index(
    root: str, scratch: Path, *names: str, suffixes: tuple[str, str] = ("pet", "T1w")
) -> dict[str, tuple[IndexedPair, PairSources]]:
    """The rows of files of these names, by key."""
    for name in names:
        write(root, name, name.encode(errors="surrogateescape"))
    found = index_bids(root, scratch, suffixes)
    pairs, sources = list(found.index.pairs()), list(found.pair_sources())
    assert [pair.pair_key for pair in pairs] == sorted((row.pair_key for row in sources), key=str.encode)
    return {pair.pair_key: (pair, row) for pair, row in zip(pairs, sources, strict=True)}


def codes(rows: dict[str, tuple[IndexedPair, PairSources]]) -> dict[str, Code | None]:
    return {key: pair.code for key, (pair, _) in rows.items()}


def test_subject_and_session(root: str, scratch: Path) -> None:
    rows = index(
        root, scratch,
        "sub-01/ses-1/pet/sub-01_ses-1_trc-FDG_pet.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_acq-highres_T1w.nii",
        "sub-01/ses-2/pet/sub-01_ses-2_pet.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-03_pet.nii",
        "sub-03_T1w.nii",
    )  # fmt: skip
    first, second = "sub-01/ses-1/pet/sub-01_ses-1_trc-FDG_pet", "sub-03_pet"
    assert codes(rows) == {
        first: None, second: None,
        "sub-01/ses-2/pet/sub-01_ses-2_pet": Code.NO_PARTNER, "sub-02/anat/sub-02_T1w": Code.NO_PARTNER,
    }  # fmt: skip
    base = absolute(root)
    assert rows[first][1] == PairSources(
        first, (f"{base}/{first}.nii.gz",), (f"{base}/sub-01/ses-1/anat/sub-01_ses-1_acq-highres_T1w.nii",),
        Kind.NIFTI, Kind.NIFTI, "PT", "MR", "sub-01",
    )  # fmt: skip
    pair = rows[first][0]
    assert (pair.first_size, pair.second_uri) == (len(first) + 7, rows[first][1].second_uris[0])
    assert rows["sub-02/anat/sub-02_T1w"][0].detail == "no pet of this subject and session"


def test_several_of_a_session_pair_by_what_both_sides_name(root: str, scratch: Path) -> None:
    rows = index(
        root, scratch,
        "sub-1/sub-1_trc-FDG_run-1_pet.nii", "sub-1/sub-1_trc-FDG_run-2_pet.nii",
        "sub-1/sub-1_run-01_T1w.nii", "sub-1/sub-1_run-02_T1w.nii", "sub-1/sub-1_run-03_T1w.nii",
    )  # fmt: skip
    assert codes(rows) == {
        "sub-1/sub-1_trc-FDG_run-1_pet": None, "sub-1/sub-1_trc-FDG_run-2_pet": None,
        "sub-1/sub-1_run-03_T1w": Code.NO_PARTNER,
    }  # fmt: skip
    assert rows["sub-1/sub-1_trc-FDG_run-2_pet"][1].second_uris[0].endswith("run-02_T1w.nii")


def test_what_stays_ambiguous_is_one_row(root: str, scratch: Path) -> None:
    rows = index(
        root, scratch,
        "sub-1/sub-1_trc-FDG_pet.nii", "sub-1/sub-1_trc-PIB_pet.nii", "sub-1/sub-1_T1w.nii",
        "sub-2/sub-2_pet.nii", "sub-2/sub-2_pet.nii.gz", "sub-2/sub-2_T1w.nii",
    )  # fmt: skip
    assert codes(rows) == {"sub-1/sub-1_trc-FDG_pet": Code.AMBIGUOUS_PAIR, "sub-2/sub-2_pet": Code.AMBIGUOUS_PAIR}
    pair, sources = rows["sub-1/sub-1_trc-FDG_pet"]
    assert pair.detail == "2 pet and 1 T1w of one subject and session"
    assert sources.first_uris == sources.second_uris == ()
    assert (pair.first_fingerprint or "").startswith("2-together-")


def test_data_sets_below_one_folder(root: str, scratch: Path) -> None:
    names = [f"{name}/sub-01/sub-01_{suffix}.nii" for name in ("a", "b/c") for suffix in ("ct", "spect")]
    rows = index(root, scratch, *names, suffixes=("spect", "ct"))
    assert codes(rows) == {"a/sub-01/sub-01_spect": None, "b/c/sub-01/sub-01_spect": None}
    assert [row.patient for _, row in rows.values()] == ["a/sub-01", "b/c/sub-01"]
    assert {(row.first_modality, row.second_modality) for _, row in rows.values()} == {("NM", "CT")}


def test_everything_else(root: str, scratch: Path) -> None:
    rows = index(
        root, scratch,
        "sub-1/sub-1_pet.nii", "sub-1/sub-1_T1w.nii", "sub-1/sub-1_pet.json", "sub-1/sub-1_bold.nii.gz",
        "sub-1/other.nii", "sub-1/ses-1_sub-1_T1w.nii", "sub-1/run.dcm",
        "derivatives/ddfm/sub-1/sub-1_desc-fused_pet.nii", "sub-1/sub-1_space-T1w_desc-fused_pet.nii.gz",
        "sourcedata/sub-1/sub-1_pet.nii", "_ddfm/sub-1_pet.nii",
    )  # fmt: skip
    assert codes(rows) == {
        "sub-1/sub-1_pet": None, "sub-1/sub-1_pet.json": Code.NOT_IMAGE, "sub-1/run.dcm": Code.NOT_IMAGE,
        "sub-1/sub-1_bold.nii.gz": Code.OTHER_MODALITY, "sub-1/other.nii": Code.NO_PARTNER,
        "sub-1/ses-1_sub-1_T1w.nii": Code.NO_PARTNER,
    }  # fmt: skip


def test_links_to_nothing_and_names_that_are_not_utf8(tmp_path: Path, scratch: Path) -> None:
    root = tmp_path / "root"
    write(str(root), "sub-1_T1w.nii")
    (root / "sub-1_pet.nii").symlink_to("nowhere")
    Path(os.fsdecode(bytes(root) + b"/sub-2_\xfc_pet.nii")).write_bytes(b"x")
    rows = index(str(root), scratch)
    assert codes(rows) == {"sub-1_pet": Code.MISSING_SOURCE, "unusable-sub-2_%FC_pet.nii": Code.NAME_UNUSABLE}
    assert rows["sub-1_pet"][0].detail == "the first source: a link to nothing"


def test_fingerprints_by_content(root: str, scratch: Path) -> None:
    for name in ("sub-1_pet.nii", "sub-1_T1w.nii"):
        write(root, name, b"same")
    (pair,) = index_bids(root, scratch, ("pet", "T1w"), fingerprint="content").index.pairs()
    assert pair.first_fingerprint == pair.second_fingerprint
    assert "sha256" in (pair.first_fingerprint or "")


@pytest.mark.parametrize("suffixes", [("pet", "pet"), ("pet", ""), ("_pet", "T1w"), ("pet", "T1w.nii")])
def test_suffixes_that_make_no_pairs(root: str, scratch: Path, suffixes: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="two different suffixes"):
        index_bids(root, scratch, suffixes)


def test_a_folder_without_such_files(root: str, scratch: Path) -> None:
    with pytest.raises(EmptyArchive, match=r"sub-\.\.\._pet"):
        index(root, scratch, "sub-1_bold.nii", "notes.txt")
    with pytest.raises(StorageError):
        index_bids(join(root, "none"), scratch, ("pet", "T1w"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sub-01_T1w.nii.gz", BidsName("", "01", "", {}, "T1w")),
        ("a/sub-1/ses-x/sub-1_ses-x_run-007_rec-AC_pet.nii", BidsName("a", "1", "x", {"run": "7", "rec": "AC"}, "pet")),
        ("sub-01.nii", None),
        ("T1w.nii", None),
        ("sub-01_run_T1w.nii", None),
        ("sub-01_sub-02_T1w.nii", None),
        ("sub-_T1w.nii", None),
        ("ses-1_T1w.nii", None),
    ],
)  # fmt: skip
def test_parts_of_a_name(path: str, expected: BidsName | None) -> None:
    assert parse_bids_name(path) == expected
