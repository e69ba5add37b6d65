"""Several samples through the whole job: maps of deviation beside pictures and volumes."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from flows.fuse_archive import run_archive
from flows.maintenance import prune_archive, verify
from flows.samples.grids import axes_grid
from flows.samples.head import head_mr, head_pet
from flows.samples.nifti_files import NiftiFile, write_nifti
from tasks.current import current_rows
from tasks.job_file import make_job
from tests.archives import job_settings, make_archive, pictures
from tests.runs import SilentWatcher


def run(settings):
    """Rows by key after a run."""
    job = make_job(settings)
    run_archive(job, SilentWatcher())
    return {row["pair_key"]: row for row in current_rows(job.out, job.method_name, columns=None).to_pylist()}


def test_the_deviation_of_samples_lies_beside_the_picture(tmp_path):
    root = make_archive(tmp_path, 2)
    # In mode paper, where much is left to the noise.
    settings = job_settings(root, mode="paper", samples=3)
    rows = run(settings)
    row = rows["000"]
    assert row["samples"] == 3
    assert row["extra_uris"] == [row["output_uri"].removesuffix(".png") + ".std.tiff"]
    std = tifffile.imread(row["extra_uris"][0])
    assert (std.shape, std.dtype) == ((32, 32), np.float32)
    assert row["std_mean"] == pytest.approx(std.mean(dtype=float), rel=1e-6)
    plain = run(settings | {"samples": 1, "method": "plain"})
    mean, one = (np.asarray(Image.open(each["output_uri"]), float) for each in (row, plain["000"]))
    assert abs(mean - one).mean() > 0.5
    assert plain["000"]["extra_uris"] is None


def test_maps_are_verified_mended_dropped_and_pruned_with_their_pictures(tmp_path):
    root = make_archive(tmp_path, 3)
    settings = job_settings(root, samples=2, steps=1)
    run(settings)
    folder = tmp_path / "out/fused/adaptive"
    before = pictures(folder)
    assert sorted(before) == [f"00{n}{suffix}" for n in range(3) for suffix in (".png", ".std.tiff")]
    assert verify(str(root / "out"), deep=True, repair=False) == 0
    (folder / "000.std.tiff").unlink()
    (folder / "001.std.tiff").write_bytes(b"damaged")
    assert verify(str(root / "out"), deep=True, repair=True) == 1
    run(settings)
    assert pictures(folder) == before
    assert verify(str(root / "out"), deep=True, repair=False) == 0
    for side in ("ir", "vi"):
        (root / side / "002.png").unlink()
    assert prune_archive(make_job(settings), really=True, most_share=0.5) == 0
    assert sorted(pictures(folder)) == sorted(name for name in before if not name.startswith("002"))
    run(settings | {"samples": 1})
    assert sorted(pictures(folder)) == ["000.png", "001.png"]
    assert verify(str(root / "out"), deep=True, repair=False) == 0


def test_the_deviation_of_a_volume_has_its_grid_and_unit(tmp_path):
    grid = axes_grid((24, 20, 3), (5.0, 5.0, 20.0), (0, 5, 0), axes="RAS")
    write_nifti(tmp_path / "PET/Smith.nii.gz", head_pet((24, 20, 3), grid), grid, NiftiFile())
    write_nifti(tmp_path / "MR/Smith.nii.gz", head_mr((24, 20, 3), grid), grid, NiftiFile())
    settings = {
        "first": f"{tmp_path}/PET", "second": f"{tmp_path}/MR", "out": f"{tmp_path}/out", "privacy": "off",
        "modality_first": "PET", "modality_second": "MR", "register": "none", "steps": 2, "samples": 2,
    }  # fmt: skip
    row = run(settings)["Smith"]
    fused, std = nib.load(row["output_uri"]), nib.load(row["extra_uris"][0])
    assert row["extra_uris"][0].endswith("/Smith.std.nii")
    np.testing.assert_array_equal(std.affine, fused.affine)
    assert std.shape == fused.shape
    side = row["fixed"]
    unit = row[f"normalisation_{side}_hi"] - row[f"normalisation_{side}_lo"]
    assert row["std_mean"] == pytest.approx(float(std.get_fdata().mean()) / unit * 255, rel=0.01)
    assert verify(f"{tmp_path}/out", deep=True, repair=False) == 0
    assert run(settings | {"samples": 1})["Smith"]["extra_uris"] is None
    assert [path.name for path in (tmp_path / "out/fused/adaptive").iterdir()] == ["Smith.nii.gz"]
