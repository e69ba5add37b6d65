"""Archives of medical volumes from end to end, small ones with one diffusion step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest

from flows.fuse_archive import run_archive
from flows.maintenance import prune_archive, verify
from flows.samples.archives import make_study_archive
from flows.samples.dicom_files import DicomScan, DicomTroubles, write_dicom_series
from flows.samples.grids import axes_grid, slices_grid
from flows.samples.head import head_ct, head_mr, head_pet
from flows.samples.nifti_files import NiftiFile, write_nifti
from tasks import volume_pair
from tasks.codes import ConfigurationError
from tasks.current import current_rows
from tasks.job_file import make_job
from tasks.storage import StorageError
from tests.archives import ddfm, pictures
from tests.runs import SilentWatcher

SHAPE = (6, 40, 40)
SPACING = (20.0, 5.0, 5.0)


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("DDFM_PSEUDONYM_SECRET", "0123456789abcdef")


def make_pair(root: Path, name: str = "Smith", seed: int = 0) -> Path:
    """A CT and an MR series of one patient in one frame of reference, on different grids."""
    for modality, head, shape in (("CT", head_ct, SHAPE), ("MR", head_mr, (5, 36, 36))):
        grid = slices_grid(shape, SPACING, (0, 5, 0))
        scan = DicomScan(modality, frame_of_reference=name, study=name, series=modality)
        write_dicom_series(root / modality / name, head(shape, grid, seed=seed), grid, scan)
    return root


def make_niftis(root: Path, name: str = "Smith") -> Path:
    """A PET and an MR volume on one grid."""
    grid = axes_grid((40, 36, 6), (5.0, 5.0, 20.0), (0, 5, 0), axes="RAS")
    write_nifti(root / "PET" / f"{name}.nii.gz", head_pet((40, 36, 6), grid), grid, NiftiFile())
    write_nifti(root / "MR" / f"{name}.nii", head_mr((40, 36, 6), grid), grid, NiftiFile())
    return root


def job_of(root: Path, first: str = "CT", second: str = "MR", **changes: Any) -> dict[str, Any]:
    register = "header" if first == "CT" else "none"
    places = {"first": f"{root}/{first}", "second": f"{root}/{second}", "out": f"{root}/out"}
    return places | {"steps": 1, "register": register} | changes


def run(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The current rows after a run."""
    job = make_job(settings)
    run_archive(job, SilentWatcher())
    return current_rows(job.out, job.method_name, columns=None).to_pylist()


def volume_of(row: dict[str, Any]) -> Any:
    return nib.load(row["output_uri"])


def test_a_fused_volume_lies_on_the_grid_of_the_anatomical_source(tmp_path):
    (row,) = run(job_of(make_pair(tmp_path)))
    assert (row["status"], row["modality_first"], row["modality_second"], row["fixed"]) == ("ok", "CT", "MR", "second")
    assert (row["n_slices"], row["height"], row["width"]) == (5, 36, 36)
    assert row["registration_method"] == "header"
    assert row["registration_decision"].startswith("header")
    assert (row["first_unit"], row["first_shape"], row["second_shape"]) == ("HU", [6, 40, 40], [5, 36, 36])
    volume = volume_of(row)
    assert volume.shape == (36, 36, 5)
    source = slices_grid((5, 36, 36), SPACING, (0, 5, 0))
    np.testing.assert_allclose(volume.affine, source[:, [2, 1, 0, 3]], atol=1e-4)
    np.testing.assert_allclose(np.reshape(row["affine"], (4, 4)), volume.affine, atol=1e-4)
    voxels = volume.get_fdata()
    low, high = row["normalisation_second_lo"], row["normalisation_second_hi"]
    assert voxels.min() >= low - 1e-3
    assert voxels.max() <= high + 1e-3
    assert np.std(voxels) > 0.1 * (high - low)
    assert all(np.isfinite(row[name]) for name in ("EN", "SD", "Qabf", "SSIM"))


def test_a_second_run_plans_nothing_and_a_changed_slice_one_pair(tmp_path):
    root = make_pair(tmp_path)
    (before,) = run(job_of(root))
    (same,) = run(job_of(root))
    assert same["run_id"] == before["run_id"]
    grid = slices_grid(SHAPE, SPACING, (0, 5, 0))
    shutil.rmtree(root / "CT" / "Smith")
    scan = DicomScan("CT", frame_of_reference="Smith", study="Smith", series="CT")
    write_dicom_series(root / "CT" / "Smith", head_ct(SHAPE, grid, seed=1), grid, scan)
    (after,) = run(job_of(root))
    assert after["run_id"] != before["run_id"]
    assert after["pair_key"] == before["pair_key"]
    assert after["output_sha256"] != before["output_sha256"]


def test_a_batch_of_1_and_one_of_8_give_the_same_volume(tmp_path):
    root = make_pair(tmp_path)
    (one,) = run(job_of(root, batch=1, out=f"{root}/one"))
    (eight,) = run(job_of(root, batch=8, out=f"{root}/eight"))
    level = (one["normalisation_second_hi"] - one["normalisation_second_lo"]) / 255
    difference = np.abs(volume_of(one).get_fdata() - volume_of(eight).get_fdata())
    assert difference.max() <= level


def test_slices_share_their_noise_unless_asked_otherwise(tmp_path):
    root = make_pair(tmp_path)
    (shared,) = run(job_of(root))
    (independent,) = run(job_of(root, volumes={"noise": "independent"}))
    assert (shared["noise"], independent["noise"]) == ("shared", "independent")
    assert shared["output_sha256"] != independent["output_sha256"]


def test_the_slices_have_rows_of_their_own(tmp_path):
    (row,) = run(job_of(make_pair(tmp_path)))
    (path,) = (tmp_path / "out" / "_ddfm" / "runs" / row["run_id"] / "slices").iterdir()
    slices = pq.read_table(path).to_pylist()
    assert [one["slice_index"] for one in slices] == list(range(5))
    np.testing.assert_allclose(np.diff([one["position_mm"] for one in slices]), SPACING[0], atol=1e-3)
    fused = [one for one in slices if one["outcome"] == "fused"]
    assert len(fused) == 5 - row["passthrough_slices"]
    assert row["EN"] == pytest.approx(np.mean([one["EN"] for one in fused]))


def test_a_slice_that_is_empty_in_both_sources_is_passed_through(tmp_path):
    grid = axes_grid((40, 36, 6), (5.0, 5.0, 20.0), (0, 5, 0), axes="RAS")
    for side, voxels in (("PET", head_pet((40, 36, 6), grid)), ("MR", head_mr((40, 36, 6), grid))):
        voxels[:, :, 4:] = 0
        write_nifti(tmp_path / side / "a.nii.gz", voxels, grid, NiftiFile())
    (row,) = run(job_of(tmp_path, "PET", modality_first="PET", modality_second="MRI"))
    assert row["passthrough_slices"] == 2
    assert "passthrough_slices" in row["flags"]
    voxels = volume_of(row).get_fdata()
    assert np.ptp(voxels[:, :, 4:]) == 0
    assert np.ptp(voxels[:, :, :4]) > 0


def test_nifti_in_its_own_orientation_with_the_modalities_of_the_job(tmp_path):
    root = make_niftis(tmp_path)
    (row,) = run(job_of(root, "PET", modality_first="PET", modality_second="T1w"))
    assert (row["modality_first"], row["modality_second"], row["fixed"]) == ("PT", "MR", "second")
    assert row["axcodes"] == "RAS"
    assert row["normalisation_first_rule"] == "percentile_from_zero"
    source = nib.load(root / "MR" / "Smith.nii")
    np.testing.assert_allclose(volume_of(row).affine, source.affine, atol=1e-4)
    assert volume_of(row).shape == source.shape
    # What moves is no patient's name: the volume shows the head where the source does.
    correlation = np.corrcoef(volume_of(row).get_fdata().ravel(), source.get_fdata().ravel())[0, 1]
    assert correlation > 0.5


def test_derived_dicom_and_pictures_are_written_on_request_and_verified_and_pruned(tmp_path, capsys):
    root = make_pair(tmp_path)
    settings = job_of(root, volumes={"also_write": ["dicom", "png"]})
    (row,) = run(settings)
    folder = root / "out" / "fused" / "adaptive"
    series = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dicom/*.dcm"))]
    assert len(series) == 5
    assert {str(one.PatientIdentityRemoved) for one in series} == {"YES"}
    assert len(list(folder.glob("*.slices/*.png"))) == 5
    assert [Path(uri).suffix for uri in row["extra_uris"]] == [".dicom", ".slices"]
    assert verify(str(root / "out"), deep=True, repair=False) == 0
    damaged = next(folder.glob("*.dicom/*.dcm"))
    damaged.write_bytes(damaged.read_bytes()[:-2])
    assert verify(str(root / "out"), deep=True, repair=False) == 1
    assert "different_output" in capsys.readouterr().out
    for modality in ("CT", "MR"):
        shutil.rmtree(root / modality / "Smith")
    make_pair(tmp_path, "Jones")
    assert prune_archive(make_job(settings), True, 1.0) == 0
    assert not list(folder.rglob("*.dcm"))
    assert not list(folder.rglob("*.nii.gz"))


def test_identity_is_kept_only_when_asked_for(tmp_path):
    root = make_pair(tmp_path)
    source = pydicom.dcmread(next(path for path in (root / "MR").rglob("*") if path.is_file()))
    for identity, kept in (("pseudonym", False), ("keep", True)):
        run(job_of(root, method=identity, volumes={"also_write": ["dicom"], "identity": identity}))
        derived = pydicom.dcmread(next((root / "out" / "fused" / identity).glob("*.dicom/*.dcm")))
        assert (str(derived.PatientName) == str(source.PatientName)) is kept
        assert (derived.StudyInstanceUID == source.StudyInstanceUID) is kept
        assert bool(derived.ContentDate) is kept


def test_a_nifti_source_gives_no_derived_dicom_and_says_so(tmp_path):
    (row,) = run(job_of(make_niftis(tmp_path), "PET", volumes={"also_write": ["dicom"]}))
    assert (row["status"], row["code"]) == ("rejected", "not_derivable")


def test_studies_of_many_kinds_each_become_what_they_are(tmp_path):
    """Paired by patient and frame of reference, with a series missing a slice and a tilted one among them."""
    studies = [one for one in make_study_archive(tmp_path, studies=8, bad=4, shape=(8, 40, 40)) if one.first == "CT"]
    root = studies[0].folder.parent
    settings = {
        "archive": str(root), "modality_first": "CT", "modality_second": "MR", "out": str(tmp_path / "out"), "steps": 1,
    }  # fmt: skip
    rows = run(settings)
    wanted = sorted(str(study.code or "ok") for study in studies)
    assert sorted(row["code"] or "ok" for row in rows if row["status"] != "skipped") == wanted


def test_without_a_secret_a_medical_job_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.delenv("DDFM_PSEUDONYM_SECRET")
    root = make_niftis(tmp_path)
    answer = ddfm("fuse", root / "PET", root / "MR", "--out", tmp_path / "out", "--no-prefect")
    assert answer.returncode == 2
    assert "DDFM_PSEUDONYM_SECRET" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_privacy_off_keeps_the_names(tmp_path):
    (row,) = run(job_of(make_niftis(tmp_path), "PET", privacy="off"))
    assert row["pair_key"] == "Smith"
    assert row["first_uri"] == str(tmp_path / "PET" / "Smith.nii.gz")
    assert row["output_uri"].endswith("/Smith.nii.gz")


def test_pictures_in_strict_privacy_have_no_names_either(tmp_path):
    from tests.archives import job_settings, make_archive

    root = make_archive(tmp_path, 2)
    for side in ("ir", "vi"):
        (root / side / "000.png").rename(root / side / "Smith.png")
    rows = run(job_settings(root, privacy="strict", steps=1))
    assert [row["status"] for row in rows] == ["ok", "ok"]
    written = b"".join(
        path.read_bytes() for path in (root / "out").rglob("*") if path.is_file() and "private" not in path.parts
    )
    names = str([str(path) for path in (root / "out").rglob("*")])
    assert b"Smith" not in written
    assert "Smith" not in names + json.dumps(rows, default=str)


def test_a_failure_is_retried_alone_and_then_gives_the_bytes_of_an_undisturbed_run(tmp_path, monkeypatch):
    root = make_pair(tmp_path)
    (calm,) = run(job_of(root, out=f"{root}/calm"))

    def failing(*_: object) -> None:
        raise RuntimeError("Smith")

    with monkeypatch.context() as patch:
        patch.setattr(volume_pair, "register_volumes", failing)
        (failed,) = run(job_of(root))
    assert (failed["status"], failed["code"]) == ("failed", "internal_error")
    assert "Smith" not in failed["message"]
    (row,) = run(job_of(root))
    assert (row["status"], row["attempt"]) == ("ok", 2)
    assert row["output_sha256"] == calm["output_sha256"]


def test_a_store_out_of_reach_stops_the_run_without_naming_a_file(tmp_path, monkeypatch):
    root = make_pair(tmp_path)

    def unreachable(*_: object) -> None:
        raise StorageError(f"{root}/CT/Smith/1", "Smith is away", "check it")

    monkeypatch.setattr(volume_pair, "read_volume", unreachable)
    with pytest.raises(StorageError) as caught:
        run(job_of(root))
    assert "Smith" not in str(caught.value)


@pytest.mark.server
def test_from_object_storage_to_object_storage(tmp_path, s3_bucket, s3_server):
    root = make_pair(tmp_path / "local")
    client = s3_server.client()
    bucket = s3_bucket.removeprefix("s3://")
    for path in root.rglob("*"):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=str(path.relative_to(root)), Body=path.read_bytes())
    settings = {"first": f"{s3_bucket}/CT", "second": f"{s3_bucket}/MR", "out": f"{s3_bucket}/out", "steps": 1}
    settings["volumes"] = {"also_write": ["dicom"]}
    (row,) = run(settings)
    assert row["status"] == "ok"
    (local,) = run(job_of(root))
    assert row["output_sha256"] == local["output_sha256"]
    assert verify(settings["out"], deep=True, repair=False) == 0
    (again,) = run(settings)
    assert again["run_id"] == row["run_id"]


def test_two_runs_write_the_same_bytes(tmp_path):
    root = make_pair(tmp_path)
    for out in ("one", "other"):
        run(job_of(root, out=f"{root}/{out}", volumes={"also_write": ["dicom", "png"]}))
    assert pictures(root / "one" / "fused") == pictures(root / "other" / "fused")


def test_fewer_slices_leave_none_of_the_old_series_behind(tmp_path):
    root = make_pair(tmp_path)
    folder = root / "out" / "fused" / "adaptive"
    run(job_of(root, volumes={"also_write": ["dicom", "png"]}))
    before = {pydicom.dcmread(path).SOPInstanceUID for path in folder.glob("*.dicom/*")}
    shutil.rmtree(root / "MR")
    shape = (4, 36, 36)
    grid = slices_grid(shape, SPACING, (0, 5, 0))
    scan = DicomScan("MR", frame_of_reference="Smith", study="Smith", series="MR")
    write_dicom_series(root / "MR" / "Smith", head_mr(shape, grid), grid, scan)
    run(job_of(root, volumes={"also_write": ["dicom", "png"]}))
    after = {pydicom.dcmread(path).SOPInstanceUID for path in folder.glob("*.dicom/*")}
    assert len(after) == 4
    assert not after & before
    run(job_of(root))
    assert [path.suffix for path in folder.iterdir()] == [".gz"]


def test_sources_that_cannot_become_derived_dicom_are_told_before_any_work(tmp_path, monkeypatch):
    root = make_niftis(tmp_path)
    monkeypatch.setattr(volume_pair, "register_volumes", None)
    (row,) = run(job_of(root, "PET", volumes={"also_write": ["dicom"]}))
    assert row["code"] == "not_derivable"


def test_numbers_for_pet_are_suv_and_not_becquerel(tmp_path):
    grid = slices_grid(SHAPE, SPACING, (0, 5, 0))
    scan = DicomScan("PT", frame_of_reference="Smith", study="Smith", series="PT", attributes={"PatientWeight": None})
    write_dicom_series(tmp_path / "PT" / "Smith", head_pet(SHAPE, grid) * 1e4, grid, scan)
    make_pair(tmp_path)
    (row,) = run(job_of(tmp_path, "PT", register="header", first_range=[0, 10]))
    assert (row["first_unit"], row["normalisation_first_rule"]) == ("BQML", "percentile_from_zero")
    assert "first: suv_unavailable" in row["flags"]


def test_where_the_fixed_source_has_a_gap_the_result_has_nothing(tmp_path):
    root = make_pair(tmp_path)
    shutil.rmtree(root / "MR")
    grid = slices_grid((5, 36, 36), SPACING, (0, 5, 0))
    scan = DicomScan("MR", frame_of_reference="Smith", study="Smith", series="MR", troubles=DicomTroubles(missing=(2,)))
    write_dicom_series(root / "MR" / "Smith", head_mr((5, 36, 36), grid), grid, scan)
    (rejected,) = run(job_of(root))
    assert rejected["code"] == "missing_slices"
    (row,) = run(job_of(root, volumes={"fill_gaps": True}))
    assert "second: gap_filled" in row["flags"]
    voxels = volume_of(row).get_fdata()
    assert voxels.shape[2] == 5
    assert np.ptp(voxels[:, :, 2]) == 0
    assert np.ptp(voxels[:, :, 1]) > 0


def test_too_large_files_are_refused_unread(tmp_path, monkeypatch):
    root = make_niftis(tmp_path)
    monkeypatch.setattr("tasks.read.volume.read_bytes", None)
    (row,) = run(job_of(root, "PET", volumes={"max_object_bytes": 1000}))
    assert (row["code"], "max_object_bytes" in row["message"]) == ("too_large", True)


def test_another_secret_is_refused_instead_of_fusing_all_anew(tmp_path, monkeypatch):
    root = make_niftis(tmp_path)
    run(job_of(root, "PET"))
    monkeypatch.setenv("DDFM_PSEUDONYM_SECRET", "another secret, long")
    with pytest.raises(ConfigurationError, match="not the one that this destination was written with"):
        run(job_of(root, "PET"))


def test_a_run_planned_in_clear_is_not_resumed_in_strict_privacy(tmp_path, monkeypatch):
    root = make_niftis(tmp_path)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(volume_pair, "register_volumes", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(job_of(root, "PET", privacy="off"))
    rows = run(job_of(root, "PET"))
    assert [row["status"] for row in rows] == ["ok"]
    assert "Smith" not in str(rows)


@pytest.mark.parametrize(
    ("field", "value"), [("only", ["Smith*"]), ("homographies", {"Smith*": [1, 0, 0, 0, 1, 0, 0, 0, 1]})]
)
def test_patterns_of_names_are_refused_in_strict_privacy(tmp_path, field, value):
    root = make_niftis(tmp_path)
    with pytest.raises(ConfigurationError, match=f"{field}: in strict privacy"):
        run(job_of(root, "PET", **{field: value}))
