import itertools
import resource
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from flows.samples.grids import rigid_motion, slices_grid
from tasks.codes import Code, PairError
from tasks.register.grid import Grid, block_mean, from_itk, on_grid_by_header, resample, same_grid, to_itk
from tasks.volume import Volume

SHAPE = (5, 6, 7)


def volume(voxels, affine, modality="MR", unit="", **facts):
    return Volume(np.asarray(voxels, np.float32), np.asarray(affine, float), 0, modality, unit, b"", **facts)


def ramp(shape, affine, slopes=(1.0, -2.0, 0.5)):
    """A value that is linear in the scanner's millimetres: linear interpolation is exact on it."""
    points = Grid(shape, affine).points(np.argwhere(np.ones(shape)).astype(float))
    return (points @ np.array(slopes)).reshape(shape)


def all_axis_orders():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product([1, -1], repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, order] * np.array(signs) * [2, 1.5, 3]
            affine[:3, 3] = [10, -20, 30]
            yield affine


def test_every_order_of_axes_lies_in_itk_where_the_volume_says():
    voxels = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    for affine in all_axis_orders():
        image = to_itk(voxels, Grid(SHAPE, affine))
        x, y, z, _ = affine @ [1, 2, 6, 1]
        assert image.TransformIndexToPhysicalPoint((6, 2, 1)) == pytest.approx((-x, -y, z))
        assert image.GetPixel(6, 2, 1) == voxels[1, 2, 6]
        back, grid = from_itk(image)
        np.testing.assert_array_equal(back, voxels)
        np.testing.assert_allclose(grid.affine, affine, atol=1e-9)


def test_an_oblique_grid_gets_what_lies_at_its_places():
    shape = (20, 24, 28)
    source = slices_grid(shape, (3, 2, 2), (5, -3, 8), rigid_motion((1, 2, 3), 25), "coronal")
    target = slices_grid((10, 9, 8), (2.5, 2, 2), (6, -2, 7), rigid_motion((3, -1, 1), 18), "sagittal")
    voxels, valid = resample(volume(ramp(shape, source), source), Grid((10, 9, 8), target))
    assert valid.all()
    np.testing.assert_allclose(voxels, ramp((10, 9, 8), target), atol=1e-3)


def test_a_transform_takes_points_of_the_fixed_grid_to_the_moving_volume():
    shape = (20, 24, 28)
    affine = slices_grid(shape, (3, 2, 2))
    shift = sitk.TranslationTransform(3, (4.0, 0.0, 1.0))
    voxels, valid = resample(volume(ramp(shape, affine), affine), Grid(shape, affine), shift)
    # In ITK's LPS+; our slopes are for RAS+.
    wanted = ramp(shape, affine) + 1.0 * -4 + 0.5 * 1
    np.testing.assert_allclose(voxels[1:-1, 1:-1, 3:-3], wanted[1:-1, 1:-1, 3:-3], atol=1e-3)
    assert valid[1:-1, 1:-1, 3:-3].all()
    assert not valid.all()


def test_one_grid_is_one_within_a_tenth_of_a_micrometre():
    affine = np.diag([2.0, 1.5, 3, 1])
    moved = affine.copy()
    moved[0, 3] = 5e-5
    assert same_grid(Grid(SHAPE, affine), Grid(SHAPE, moved))
    moved[0, 3] = 2e-4
    assert not same_grid(Grid(SHAPE, affine), Grid(SHAPE, moved))
    assert not same_grid(Grid(SHAPE, affine), Grid((5, 6, 8), affine))
    scaled = affine.copy()
    scaled[2, 2] += 1e-4
    assert not same_grid(Grid(SHAPE, affine), Grid(SHAPE, scaled))


def test_no_value_is_made_of_padding():
    affine = np.diag([2.0, 1.5, 3, 1])
    valid = np.ones(SHAPE, bool)
    valid[2, 3, 3] = False
    voxels = np.full(SHAPE, 40.0)
    voxels[2, 3, 3] = -2000
    between = affine.copy()
    between[0, 3] = 0.9
    for kind in ("linear", "bspline"):
        result, known = resample(
            volume(voxels, affine, "CT", "HU", valid=valid), Grid(SHAPE, between), interpolation=kind
        )
        assert sorted(map(tuple, np.argwhere(~known))) == [(1, 3, 3), (2, 3, 3)]
        np.testing.assert_allclose(result[known], 40, atol=1e-3 if kind == "linear" else 400)
        assert (result[~known] == -1000).all()


def test_beyond_the_moving_grid_ct_is_air_and_the_rest_is_nothing():
    affine = np.diag([2.0, 2, 2, 1])
    far = affine.copy()
    far[:3, 3] = [4, 0, 0]
    for modality, unit, outside in (("CT", "HU", -1000), ("CT", "", 0), ("MR", "", 0), ("PT", "SUVbw", 0)):
        voxels, valid = resample(volume(np.full(SHAPE, 7), affine, modality, unit), Grid(SHAPE, far))
        np.testing.assert_array_equal(valid, np.broadcast_to(np.arange(5)[:, None, None] < 3, SHAPE))
        assert (voxels[valid] == 7).all()
        assert (voxels[~valid] == outside).all()


def test_pet_never_rings_below_zero():
    affine = np.diag([2.0, 2, 2, 1])
    voxels = np.zeros((12, 12, 12))
    voxels[6, 6, 6] = 100
    half = affine.copy()
    half[:3, 3] = 1
    for modality, lowest in (("PT", 0.0), ("NM", 0.0)):
        assert resample(volume(voxels, affine, modality), Grid(SHAPE, half), interpolation="bspline")[0].min() == lowest
    assert resample(volume(voxels, affine), Grid((12, 12, 12), half), interpolation="bspline")[0].min() < 0


def test_a_coarse_grid_gets_means_of_fine_voxels():
    voxels = np.indices((32, 32, 32)).sum(0) % 2 * 100.0
    fine = np.eye(4)
    coarse = np.diag([4.0, 4, 4, 1])
    coarse[:3, 3] = 1.5
    result, valid = resample(volume(voxels, fine), Grid((8, 8, 8), coarse))
    assert valid.all()
    np.testing.assert_allclose(result, 50)


def test_block_means_leave_out_what_is_not_valid():
    voxels = np.arange(5 * 4 * 4, dtype=np.float32).reshape(5, 4, 4)
    valid = np.ones(voxels.shape, bool)
    valid[0, 0, 0] = False
    valid[2:4, :, 2:] = False
    small = block_mean(volume(voxels, np.eye(4), valid=valid), (2, 2, 2))
    assert small.voxels.shape == (3, 2, 2)
    block = np.ma.array(voxels, mask=~valid)[:2, :2, :2]
    assert small.voxels[0, 0, 0] == pytest.approx(block.mean())
    assert not small.valid[1, :, 1].any()
    # The last slab has one slice of two: half is enough.
    assert small.valid[2].all()
    np.testing.assert_allclose(Grid.of(small).points(np.zeros((1, 3))), [[0.5, 0.5, 0.5]])


def test_a_volume_without_orientation_is_not_aligned_by_its_header():
    there = volume(np.zeros(SHAPE), np.eye(4))
    with pytest.raises(PairError) as caught:
        on_grid_by_header(replace(there, in_scanner_space=False), there)
    assert caught.value.code is Code.NO_GEOMETRY
    assert on_grid_by_header(there, there)[1].all()


def test_a_sheared_or_singular_affine_never_reaches_itk():
    sheared = np.eye(4)
    sheared[0, 2] = 0.1
    for affine, code in ((sheared, Code.SHEARED), (np.diag([1.0, 0, 1, 1]), Code.NO_GEOMETRY)):
        with pytest.raises(PairError) as caught:
            to_itk(np.zeros(SHAPE, np.float32), Grid(SHAPE, affine))
        assert caught.value.code is code


def test_a_large_volume_is_not_copied_many_times():
    shape = (200, 512, 512)
    voxels = np.zeros(shape, np.float32)
    size = voxels.nbytes / 1024
    moving = volume(voxels, np.diag([1.0, 0.5, 0.5, 1]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resample(moving, Grid((100, 128, 128), np.diag([1.5, 0.9, 0.9, 1])))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5 * size
