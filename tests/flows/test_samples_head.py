import time
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from flows.samples.grids import axes_grid, random_motion, rigid_motion, slices_grid, tilted
from flows.samples.head import HEAD_BOX, head_corners, head_ct, head_landmarks, head_mr, head_pet

SHAPE = (24, 64, 64)
GRID = slices_grid(SHAPE, (6, 3.6, 3.6), (0, 5, 0))
SEERS = [head_ct, head_mr, head_pet]


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("see", SEERS)
def test_the_same_arguments_give_the_same_voxels_and_another_seed_another_head(see) -> None:
    once = see(SHAPE, GRID, seed=3)
    assert once.dtype == np.float32
    assert once.shape == SHAPE
    assert np.isfinite(once).all()
    np.testing.assert_array_equal(once, see(SHAPE, GRID, seed=3))
    assert correlation(once, see(SHAPE, GRID, seed=4, noise=0)) < 0.97


@pytest.mark.parametrize("see", SEERS)
def test_a_moved_head_on_a_moved_grid_looks_the_same(see) -> None:
    arguments = {"noise": 0.0} | ({"couch": False} if see is head_ct else {"bias": 0.0} if see is head_mr else {})
    motion = rigid_motion((1, -2, 0.5), 33, (12, -40, 7))
    here = see(SHAPE, GRID, **arguments)
    there = see(SHAPE, motion @ GRID, motion, **arguments)
    # Rounding of indices moves single sample points across a border.
    assert np.mean(np.abs(here - there) > 1e-2 * np.ptp(here)) < 1e-3


@pytest.mark.parametrize("see", SEERS)
def test_no_mirror_image_and_no_half_turn_is_a_match(see) -> None:
    shape = (33, 33, 33)
    arguments = {"noise": 0.0} | ({"couch": False} if see is head_ct else {"bias": 0.0} if see is head_mr else {})
    head = see(shape, axes_grid(shape, (6.5, 6.5, 6.5)), **arguments)
    for axes in product(*[(False, True)] * 3):
        if any(axes):
            turned = np.flip(head, [axis for axis in range(3) if axes[axis]])
            assert np.abs(turned - head).max() > 0.5 * np.ptp(head)
            assert correlation(turned, head) < 0.99


def test_values_are_those_of_the_modalities() -> None:
    ct, mr, pet = (see(SHAPE, GRID, noise=0.0) for see in SEERS)
    middle = (12, slice(28, 36), slice(16, 24))
    assert ct.min() == -1000
    assert 1000 < ct.max() <= 1150
    assert 25 < ct[middle].mean() < 45
    assert 400 < mr[middle].mean() < 900
    assert 2 < pet[middle].mean() < 9
    assert pet.max() < 13


def test_one_modality_is_no_map_of_anothers_intensities() -> None:
    ct, mr = head_ct(SHAPE, GRID, noise=0, couch=False), head_mr(SHAPE, GRID, noise=0, bias=0)
    for one, other in ((ct, mr), (mr, ct)):
        bins = np.digitize(one, np.quantile(one, np.linspace(0, 1, 65)[1:-1]))
        means = np.bincount(bins.ravel(), other.ravel(), 65) / np.maximum(np.bincount(bins.ravel(), minlength=65), 1)
        assert np.std(other - means[bins]) > 0.15 * np.std(other)


def test_voxels_across_a_border_are_averages_of_both_sides() -> None:
    fine_shape, coarse_shape = (8, 128, 128), (4, 64, 64)
    fine = head_ct(fine_shape, slices_grid(fine_shape, (1.5, 1.8, 1.8)), noise=0)
    coarse = head_ct(coarse_shape, slices_grid(coarse_shape, (3, 3.6, 3.6)), noise=0)
    mean = fine.reshape(4, 2, 64, 2, 64, 2).mean((1, 3, 5))
    without_averaging = np.abs(fine[::2, ::2, ::2] - mean).mean()
    assert np.abs(coarse - mean).mean() < 0.5 * without_averaging
    assert np.mean((coarse > -900) & (coarse < -150)) > 0.01


def test_noise_comes_from_its_own_seed_and_has_the_size_asked_for() -> None:
    still = head_ct(SHAPE, GRID, noise=0)
    noisy = head_ct(SHAPE, GRID, noise=10, noise_seed=5)
    assert np.std((noisy - still)[still > -900]) == pytest.approx(10, rel=0.05)
    assert not np.array_equal(noisy, head_ct(SHAPE, GRID, noise=10, noise_seed=6))


def test_the_head_lies_in_its_box_and_the_landmarks_in_the_head() -> None:
    shape = (60, 60, 60)
    grid = axes_grid(shape, (4, 4, 4))
    inside = np.argwhere(head_ct(shape, grid, noise=0, couch=False) > -500)
    points = inside @ grid[:3, :3].T + grid[:3, 3]
    above = points[points[:, 2] > HEAD_BOX[0][2]]
    assert (above.min(0) >= np.array(HEAD_BOX[0]) - 4).all()
    assert (above.max(0) <= np.array(HEAD_BOX[1]) + 4).all()
    assert head_corners().shape == (8, 3)
    assert np.ptp(head_corners(), 0) == pytest.approx(np.ptp(np.array(HEAD_BOX), 0))
    for seed in range(4):
        marks = head_landmarks(seed)
        assert len(marks) >= 10
        assert (np.abs(marks) < 95).all()
        assert np.ptp(marks, 0).min() > 40


def test_a_grid_of_registration_size_takes_about_a_second() -> None:
    shape = (48, 128, 128)
    grid = slices_grid(shape, (3, 1.8, 1.8), turn=rigid_motion((1, 1, 0), 12))
    for see in SEERS:
        start = time.process_time()
        see(shape, grid)
        assert time.process_time() - start < 3


def test_motions_stay_in_their_bounds() -> None:
    generator = np.random.default_rng(1)
    for _ in range(50):
        motion = random_motion(generator, 20, 30)
        np.testing.assert_allclose(motion[:3, :3] @ motion[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.degrees(np.arccos((np.trace(motion[:3, :3]) - 1) / 2)) <= 20
        assert np.linalg.norm(motion[:3, 3]) <= 30
    np.testing.assert_allclose(rigid_motion((0, 0, 2), 90, (1, 2, 3)) @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)


def test_grids_are_centred_and_point_where_they_say() -> None:
    turn = rigid_motion((1, 2, 3), 25)
    for grid in (slices_grid(SHAPE, (6, 3, 2), (1, 2, 3), turn), axes_grid(SHAPE, (6, 3, 2), (1, 2, 3), turn, "LIP")):
        np.testing.assert_allclose(grid @ [11.5, 31.5, 31.5, 1], [1, 2, 3, 1])
        np.testing.assert_allclose(np.linalg.norm(grid[:3, :3], axis=0), (6, 3, 2))
    assert np.allclose(slices_grid(SHAPE, (6, 3, 2), plane="sagittal")[:3, 0], (-6, 0, 0))
    sheared = tilted(GRID, 10)
    down, along = sheared[:3, 1] / 3.6, sheared[:3, 0]
    assert np.degrees(np.arctan2(along @ down, 6)) == pytest.approx(10)
