from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pydicom
import pytest

from tasks.codes import Code
from tasks.storage import StorageError, s3
from tasks.volume import VolumeLimits
from tasks.volume_index import HeaderIndex, index_dicom_archive, index_headers
from tests.volume_archives import instance, uid, write, write_nifti, write_series

BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"


def rows_of(headers: HeaderIndex) -> dict[str, dict[str, object]]:
    rows = {row["key"]: row for row in pq.read_table(headers.path).to_pylist()}
    assert len(rows) == headers.rows
    return rows


def keep(headers: HeaderIndex, tmp_path: Path) -> Path:
    return headers.path.rename(tmp_path / "known.parquet")


def test_what_a_file_is_its_content_says(root: str, scratch: Path) -> None:
    write(root, "a/slice", instance("CT", 2, patient="P7"))
    write(root, "a/1.2.840.10008", instance("MR", 1))
    write(root, "a/report.dcm", instance("SR"))
    write(root, "a/zipped.gz", gzip.compress(instance()))
    write(root, "notes.txt")
    write(root, "picture.PNG", instance())
    write(root, "DICOMDIR", instance())
    write(root, "empty", b"")
    write(root, "random.dcm", os.urandom(300))
    write_nifti(root, "b/brain.NII")
    write_nifti(root, "b/brain.nii.gz")
    headers = index_headers(root, scratch)
    rows = rows_of(headers)
    assert {key: (row["kind"], row["code"]) for key, row in rows.items()} == {
        "a/slice": ("dicom", None),
        "a/1.2.840.10008": ("dicom", None),
        "a/report.dcm": ("dicom", Code.NON_IMAGE_SOP),
        "a/zipped.gz": ("dicom", Code.NOT_DICOM),
        "notes.txt": ("", Code.NOT_IMAGE),
        "picture.PNG": ("", Code.NOT_IMAGE),
        "DICOMDIR": ("", Code.DICOMDIR),
        "empty": ("dicom", Code.NOT_DICOM),
        "random.dcm": ("dicom", Code.NOT_DICOM),
        "b/brain.NII": ("nifti", None),
        "b/brain.nii.gz": ("nifti", None),
    }
    found = rows["a/slice"]
    assert (found["modality"], found["patient_id"], found["position"]) == ("CT", "P7", [0, 0, 6])
    assert rows["a/report.dcm"]["series_uid"] == uid("study", "series")
    assert headers.read == 6
    assert [path.name for path in scratch.iterdir()] == ["headers.parquet"]


@pytest.mark.filterwarnings("ignore:The value for the data element")
def test_a_long_header_is_read_on(root: str, scratch: Path) -> None:
    write(root, "long", instance("CT", 1, AdditionalPatientHistory="y" * 200_000))
    write(root, "pixels", instance("CT", 2, PixelData=b"\0" * 200_000))
    rows = rows_of(index_headers(root, scratch))
    assert [rows[key]["position"] for key in ("long", "pixels")] == [[0, 0, 3], [0, 0, 6]]


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, scratch: Path) -> None:
    root = tmp_path / "root"
    uris = write_series(str(root), "ct", "CT", 5)
    write(str(root), "odd", b"no image")
    first = index_headers(str(root), scratch)
    assert (first.read, first.reused) == (6, 0)
    expected = rows_of(first)
    known = keep(first, tmp_path)
    for uri in uris[:4]:
        path = Path(uri)
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)  # it would be found out if it were looked at
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    Path(uris[4]).write_bytes(instance("CT", 9))
    write(str(root), "new", instance("MR", 1))
    again = index_headers(str(root), scratch, known=known)
    assert (again.read, again.reused) == (2, 5)
    rows = rows_of(again)
    assert all(rows[key] == expected[key] for key in expected if not uris[4].endswith(key))
    assert rows["new"]["modality"] == "MR"
    assert index_headers(str(root), scratch, known=known, fingerprint="content").reused == 0


def test_a_cache_that_cannot_be_trusted_is_not_used(tmp_path: Path, scratch: Path) -> None:
    root = str(tmp_path / "root")
    write_series(root, "ct")
    known = keep(index_headers(root, scratch), tmp_path)
    assert index_headers(root, scratch, known=tmp_path / "none").read == 3
    table = pq.read_table(known)
    pq.write_table(table.replace_schema_metadata({b"ddfm_schema": b"headers", b"ddfm_schema_version": b"0"}), known)
    assert index_headers(root, scratch, known=known).read == 3
    damaged = bytearray(keep(index_headers(root, scratch), tmp_path).read_bytes())
    damaged[len(damaged) // 3] ^= 255
    known.write_bytes(damaged)
    assert index_headers(root, scratch, known=known).read == 3


def test_what_was_too_large_is_read_again_under_other_limits(tmp_path: Path, scratch: Path) -> None:
    root = str(tmp_path / "root")
    write(root, "a", instance("CT", 1))
    small = index_headers(root, scratch, limits=VolumeLimits(object_bytes=500))
    assert rows_of(small)["a"]["code"] == Code.TOO_LARGE
    known = keep(small, tmp_path)
    same = index_headers(root, scratch, known=known, limits=VolumeLimits(object_bytes=500))
    assert (same.read, same.reused) == (0, 1)
    assert rows_of(index_headers(root, scratch, known=known))["a"]["code"] is None


def test_fingerprints_by_content(root: str, scratch: Path) -> None:
    write(root, "a", instance("CT", 1))
    write(root, "b", instance("CT", 1))
    write_nifti(root, "c.nii")
    rows = rows_of(index_headers(root, scratch, fingerprint="content"))
    assert rows["a"]["fingerprint"] == rows["b"]["fingerprint"]
    assert "sha256" in str(rows["c.nii"]["fingerprint"])


def test_links_to_nothing_and_names_that_are_not_utf8(tmp_path: Path, scratch: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "gone.nii").symlink_to(tmp_path / "nowhere")
    Path(os.fsdecode(bytes(root) + b"/m\xfcller")).write_bytes(instance())
    rows = rows_of(index_headers(str(root), scratch))
    assert {key: row["code"] for key, row in rows.items()} == {
        "gone": Code.MISSING_SOURCE, "gone.nii": Code.MISSING_SOURCE, "unusable-m%FCller": Code.NAME_UNUSABLE,
    }  # fmt: skip


def test_a_folder_that_does_not_exist(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(StorageError):
        index_headers(str(tmp_path / "none"), scratch)


def test_the_files_that_come_with_pydicom(scratch: Path) -> None:
    index = index_dicom_archive(str(BUNDLED), scratch, ("CT", "MR"))
    pairs = list(index.index.pairs())
    codes = Counter(pair.code for pair in pairs)
    assert codes.pop(Code.NO_PARTNER) + codes.pop(Code.AMBIGUOUS_SERIES, 0) == 8
    assert codes == {
        Code.HEADER_INCOMPLETE: 1, Code.NON_IMAGE_SOP: 3, Code.LOCALIZER: 1, Code.PROJECTION: 1, Code.DICOMDIR: 8,
        Code.NOT_IMAGE: 1, Code.NOT_DICOM: 1,
    }  # fmt: skip
    sizes = sorted(len(row.first_uris) for row in index.pair_sources() if row.first_modality == "CT")
    assert sizes == [4, 5]  # a scout and its 3 slices, whose gap the reader finds; the volume CT5N


@pytest.mark.server
def test_only_the_start_of_an_object_is_read(
    s3_bucket: str, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"{s3_bucket}/root"
    size = 2 * 2**20
    for number in range(4):
        write(root, f"ct/{number}", instance("CT", number, PixelData=b"\0" * size))
    write(root, "large.bin", os.urandom(size))
    write(root, "table.csv", b"x" * size)
    transferred: list[int] = []
    original = s3.get

    def counting(uri: str, first: int = 0, count: int | None = None) -> tuple[bytes, str]:
        content, tag = original(uri, first, count)
        transferred.append(len(content))
        return content, tag

    monkeypatch.setattr(s3, "get", counting)
    headers = index_headers(root, scratch)
    assert transferred == [64 * 1024] * 5
    assert {row["code"] for key, row in rows_of(headers).items() if key.startswith("ct/")} == {None}
    transferred.clear()
    again = index_headers(root, scratch, known=keep(headers, tmp_path))
    assert (again.read, again.reused, transferred) == (0, 5, [])
