"""What kind the sources of a job are, told from a few of their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.samples.dicom_files import DicomScan, write_dicom_series
from flows.samples.grids import slices_grid
from tasks.archive import headers_uri, index_archive
from tasks.codes import ConfigurationError
from tasks.index import EmptyArchive
from tasks.job_file import make_job
from tasks.privacy import Pseudonyms
from tasks.source_kind import settle_kind
from tests.archives import make_archive

PSEUDONYMS = Pseudonyms(b"0123456789abcdef")


def write_series(folder: Path, prefix: str = "IM") -> None:
    voxels = np.arange(4 * 16 * 16, dtype=np.float32).reshape(4, 16, 16)
    write_dicom_series(folder, voxels, slices_grid((4, 16, 16), (3, 1, 1), (0, 0, 0)), DicomScan("CT", prefix=prefix))


def job(first: Path, second: Path, **changes: object):
    return make_job({"first": str(first), "second": str(second), "out": str(first.parent / "out")} | changes)


def test_pictures_are_images(tmp_path):
    root = make_archive(tmp_path, 1)
    settled = settle_kind(job(root / "ir", root / "vi"))
    assert settled.kind == "images"
    assert not settled.strict
    assert settled.registration == "none"


@pytest.mark.parametrize("name", ["a.nii", "sub/a.NII.GZ", "a.dcm"])
def test_names_of_volumes_tell(tmp_path, name):
    for side in ("a", "b"):
        path = tmp_path / side / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    settled = settle_kind(job(tmp_path / "a", tmp_path / "b"))
    assert settled.kind == "volumes"
    assert settled.strict
    assert settled.registration == "auto"


def test_dicom_is_told_by_its_content_whatever_it_is_called(tmp_path):
    for side in ("a", "b"):
        write_series(tmp_path / side / "x", prefix="scan")
    assert settle_kind(job(tmp_path / "a", tmp_path / "b")).kind == "volumes"


@pytest.mark.parametrize(("cell", "kind"), [("a.png", "images"), ("a.nii.gz", "volumes"), ("series", "volumes")])
def test_a_table_is_of_what_it_names(tmp_path, cell, kind):
    write_series(tmp_path / "series")
    (tmp_path / "pairs.csv").write_text(f"first,second\n{cell},{cell}\n")
    settled = settle_kind(make_job({"pairs": str(tmp_path / "pairs.csv"), "out": str(tmp_path / "out")}))
    assert settled.kind == kind


def test_what_the_job_says_goes_before_and_must_fit(tmp_path):
    root = make_archive(tmp_path, 1)
    assert settle_kind(job(root / "ir", root / "vi", kind="volumes")).kind == "volumes"
    with pytest.raises(ConfigurationError, match="register: rigid is not for images"):
        settle_kind(job(root / "ir", root / "vi", register="rigid"))


def test_an_empty_source_is_said_at_once(tmp_path):
    root = make_archive(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyArchive, match="empty"):
        settle_kind(job(root / "ir", tmp_path / "empty"))


def test_headers_are_kept_for_the_next_index_only_under_the_lock(tmp_path):
    for side in ("a", "b"):
        write_series(tmp_path / side / "x")
    settled = settle_kind(job(tmp_path / "a", tmp_path / "b", private=str(tmp_path / "private")))
    scratches = [tmp_path / name for name in ("one", "two", "three")]
    for scratch in scratches:
        scratch.mkdir()
    first = index_archive(settled, scratches[0], PSEUDONYMS)
    assert not Path(headers_uri(settled)).exists()
    second = index_archive(settled, scratches[1], PSEUDONYMS, keep_headers=True)
    assert Path(headers_uri(settled)).parent == tmp_path / "private"
    third = index_archive(settled, scratches[2], PSEUDONYMS, keep_headers=True)
    rows = [list(found.index.pairs()) for found in (first, second, third)]
    assert rows[0] == rows[1] == rows[2]
    assert all("x" not in (row.pair_key, row.first_uri) for row in rows[0])
