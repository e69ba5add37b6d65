import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.slices import Slicing, empty_slices, slicing_of

ORDERS = list(itertools.permutations(range(3)))
SIGNS = list(itertools.product((1, -1), repeat=3))
SHAPE = (4, 5, 6)
LPS_AXIAL = np.array([[0, 0, -2.0, 10], [0, -2.0, 0, 20], [5.0, 0, 0, -30], [0, 0, 0, 1]])
"""A supine axial DICOM series: [slice, row, column] to superior, posterior, left."""


def affine_of(
    order: tuple[int, ...], signs: tuple[int, ...], turn: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Voxel axis n runs along the scanner's axis ``order[n]`` with that sign; then ``turn``."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs * (1.0, 2.0, 3.0)
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (11, -7, 5)
    return affine


def small_turn(seed: int, degrees: float) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    axis = generator.normal(size=3)
    axis /= np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def display(slicing: Slicing, affine: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors (RAS+) along which rows and columns of the slices run, taken from positions of voxels."""
    places = np.stack(np.meshgrid(*map(np.arange, slicing.shape), indexing="ij"), -1) @ affine[:3, :3].T + affine[:3, 3]
    x, y, z = (slicing.split(np.ascontiguousarray(places[..., axis])) for axis in range(3))
    down = np.array([part[0, 1, 0] - part[0, 0, 0] for part in (x, y, z)])
    across = np.array([part[0, 0, 1] - part[0, 0, 0] for part in (x, y, z)])
    return down / np.linalg.norm(down), across / np.linalg.norm(across)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_and_direction_of_axes_is_shown_alike(order: tuple[int, ...], slice_axis: int) -> None:
    right, anterior, superior = np.eye(3)
    expected = {
        0: ("sagittal", -superior, -anterior),
        1: ("coronal", -superior, -right),
        2: ("axial", -anterior, -right),
    }
    for signs in SIGNS:
        affine = affine_of(order, signs)
        slicing = slicing_of(affine, SHAPE, slice_axis)
        plane, rows, columns = expected[order[slice_axis]]
        down, across = display(slicing, affine)
        assert slicing.plane == plane
        np.testing.assert_allclose(down, rows)
        np.testing.assert_allclose(across, columns)
        assert slicing.axes[0] == slice_axis
        assert slicing.pixel_spacing == tuple((1.0, 2.0, 3.0)[axis] for axis in slicing.axes[1:])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(ORDERS), st.sampled_from(SIGNS), st.integers(0, 2), st.integers(0, 10**6), st.floats(0, 180),
    st.tuples(*[st.integers(1, 7)] * 3), st.sampled_from(["C", "F"]),
)  # fmt: skip
def test_join_undoes_split(
    order: tuple[int, ...], signs: tuple[int, ...], slice_axis: int, seed: int, degrees: float,
    shape: tuple[int, int, int], layout: str,
) -> None:  # fmt: skip
    slicing = slicing_of(affine_of(order, signs, small_turn(seed, degrees)), shape, slice_axis)
    voxels = np.random.default_rng(seed).normal(size=shape).astype(np.float32, order=layout)
    slices = slicing.split(voxels)
    assert slices.shape == slicing.sizes
    assert slices.shape[0] == shape[slice_axis]
    assert np.shares_memory(slices, voxels)
    np.testing.assert_array_equal(slicing.join(slices), voxels)
    np.testing.assert_array_equal(slicing.join(list(slices)), voxels)
    assert slicing.join(slices).shape == shape
    # The slice axis keeps its order.
    for index in range(shape[slice_axis]):
        assert set(slices[index].ravel()) == set(voxels.take(index, slice_axis).ravel())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ORDERS), st.sampled_from(SIGNS), st.integers(0, 2), st.integers(0, 10**6))
def test_an_oblique_volume_is_shown_as_the_straight_one(
    order: tuple[int, ...], signs: tuple[int, ...], slice_axis: int, seed: int
) -> None:
    straight = slicing_of(affine_of(order, signs), SHAPE, slice_axis)
    oblique = slicing_of(affine_of(order, signs, small_turn(seed, 20)), SHAPE, slice_axis)
    assert (oblique.axes, oblique.flips, oblique.plane) == (straight.axes, straight.flips, straight.plane)


def test_an_axial_dicom_series_stays_as_it_is() -> None:
    slicing = slicing_of(LPS_AXIAL, SHAPE, 0)
    assert (slicing.axes, slicing.flips, slicing.plane) == ((0, 1, 2), (False, False), "axial")
    voxels = np.arange(120.0).reshape(SHAPE)
    np.testing.assert_array_equal(slicing.split(voxels), voxels)


def test_what_fits_alike_keeps_the_order_of_the_file() -> None:
    for sign in (1, -1):
        turn = np.array([[np.sqrt(0.5), -np.sqrt(0.5), 0], [np.sqrt(0.5), np.sqrt(0.5), 0], [0, 0, sign]])
        for noise in (0, 1e-12, -1e-12):
            slicing = slicing_of(affine_of((0, 1, 2), (1, 1, 1), turn + noise), SHAPE, 2)
            assert slicing.axes == (2, 0, 1)


def test_positions_are_those_of_dicom() -> None:
    slicing = slicing_of(LPS_AXIAL, SHAPE, 0)
    assert slicing.positions == pytest.approx((-30, -25, -20, -15))
    backwards = LPS_AXIAL.copy()
    backwards[:3, 0] *= -1
    # The normal turns round with the order of the slices: positions always rise.
    assert slicing_of(backwards, SHAPE, 0).positions == pytest.approx((30, 35, 40, 45))
    affine = affine_of((0, 1, 2), (1, 1, 1), small_turn(3, 30))
    slicing = slicing_of(affine, SHAPE, 1)
    assert np.diff(slicing.positions) == pytest.approx(2)
    normal = affine[:3, 1] / 2
    for index, position in enumerate(slicing.positions):
        assert position == pytest.approx(normal @ (affine @ (3, index, 2, 1))[:3])


def test_restack_refuses_n_minus_1_slices() -> None:
    slicing = slicing_of(LPS_AXIAL, SHAPE, 0)
    slices = np.zeros((4, 5, 6), np.float32)
    for incomplete in (slices[:3], np.zeros((5, 5, 6), np.float32), [], list(slices[:3]), [*slices[:3], None]):
        with pytest.raises(PairError) as caught:
            slicing.join(incomplete)
        assert caught.value.code == Code.RESTACK_INCOMPLETE
    assert slicing.join(list(slices)).shape == SHAPE


def test_other_shapes_are_refused() -> None:
    slicing = slicing_of(LPS_AXIAL, SHAPE, 0)
    with pytest.raises(ValueError, match="shape"):
        slicing.split(np.zeros((5, 5, 6)))
    with pytest.raises(ValueError, match="shape"):
        slicing.join(np.zeros((4, 6, 5)))
    with pytest.raises(ValueError, match="axes"):
        slicing_of(LPS_AXIAL, (4, 5), 0)
    with pytest.raises(ValueError, match="axes"):
        slicing_of(LPS_AXIAL, SHAPE, 3)


def test_slices_are_written_through_the_view() -> None:
    slicing = slicing_of(affine_of((2, 0, 1), (1, -1, 1)), SHAPE, 1)
    voxels = np.zeros(SHAPE, np.float32)
    slicing.split(voxels)[2] = 1
    assert (voxels.take(2, 1) == 1).all()
    assert voxels.sum() == 4 * 6


def test_a_slice_is_empty_only_when_both_sources_are() -> None:
    first = np.full((4, 20, 20), -1, np.float32)
    second = first.copy()
    first[1] = -0.85
    first[2, :5] = 0.5
    second[3, 0, :3] = 1
    assert empty_slices(first, second).tolist() == [True, True, False, True]
    assert empty_slices(first, second, share=0.005).tolist() == [True, True, False, False]
    assert empty_slices(first, second, level=-0.9).tolist() == [True, False, False, True]
    assert empty_slices(first, second, share=0).tolist() == [False] * 4
    with pytest.raises(ValueError, match="shapes"):
        empty_slices(first, second[:2])
