import resource
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flows.samples.head import head_ct, head_mr, head_pet
from tasks.ct_windows import CT_WINDOWS
from tasks.normalise_volume import DEFAULT_CT_WINDOW, VolumeNormalisation, denormalise_volume, normalise_volume
from tasks.volume import Volume

GRID = np.diag([4.0, 4.0, 6.0, 1.0])
GRID[:3, 3] = (-94, -120, -90)
HEAD_SHAPE = (48, 60, 30)


def volume(voxels: NDArray[Any], modality: str, valid: NDArray[np.bool_] | None = None, **more: Any) -> Volume:
    return Volume(voxels.astype(np.float32), np.eye(4), 2, modality, "", b"", valid, **more)


def ramp(lo: float, hi: float, shape: tuple[int, int, int] = (20, 20, 20)) -> NDArray[np.float64]:
    return np.linspace(lo, hi, int(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize("name", sorted(CT_WINDOWS))
def test_a_window_of_ct_by_name(name: str) -> None:
    voxels = ramp(-1024, 3000)
    values, line = normalise_volume(volume(voxels, "CT"), name)
    lo, hi = CT_WINDOWS[name]
    assert line == VolumeNormalisation("ct_window", lo, hi)
    np.testing.assert_allclose(values, np.clip((voxels - lo) / (hi - lo) * 2 - 1, -1, 1), atol=1e-5)
    # A NIfTI file does not say that it is one.
    assert normalise_volume(volume(voxels, ""), name)[1] == line


def test_ct_without_a_window_keeps_brain_and_bone() -> None:
    values, line = normalise_volume(volume(np.array([[[-1000, -100, 0, 40, 400, 900, 3000]]]), "CT"))
    assert (line.lo, line.hi) == CT_WINDOWS[DEFAULT_CT_WINDOW]
    assert values[0, 0, 0] == -1
    assert values[0, 0, -1] == 1
    assert (np.diff(values[0, 0]) > 0.03).all()


@pytest.mark.parametrize("modality", ["CT", "MR", "PT", "NM", ""])
def test_two_numbers_go_before_everything(modality: str) -> None:
    values, line = normalise_volume(volume(ramp(0, 20), modality), (0, 10))
    assert line == VolumeNormalisation("given", 0, 10)
    assert (values.min(), values.max()) == (-1, 1)
    assert values.flat[2000] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("window", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1), "lungs"])
def test_a_window_that_is_none_is_refused(window: Any) -> None:
    with pytest.raises(ValueError, match="window"):
        normalise_volume(volume(ramp(0, 1), "CT"), window)


@pytest.mark.parametrize("modality", ["MR", "PT", "NM"])
def test_a_window_of_ct_is_refused_for_others(modality: str) -> None:
    with pytest.raises(ValueError, match="CT"):
        normalise_volume(volume(ramp(0, 1), modality), "brain")


@pytest.mark.parametrize("modality", ["MR", ""])
def test_mr_goes_by_the_percentiles_of_its_foreground(modality: str) -> None:
    generator = np.random.default_rng(0)
    voxels = np.abs(generator.normal(0, 5, (60, 60, 20)))
    inside = np.zeros(voxels.shape, bool)
    inside[15:45, 15:45] = True
    voxels[inside] = generator.uniform(100, 900, np.count_nonzero(inside))
    voxels[30, 30, 10] = 50_000
    _, line = normalise_volume(volume(voxels, modality))
    assert line.rule == "foreground_percentile"
    # 0.5 % from either end of 100 to 900: neither the air, which is three quarters, nor the one spot counts.
    assert (line.lo, line.hi) == pytest.approx((104, 896), abs=2)


def test_a_head_is_told_from_air() -> None:
    mr = head_mr(HEAD_SHAPE, GRID, seed=3)
    values, line = normalise_volume(volume(mr, "MR"))
    air = head_ct(HEAD_SHAPE, GRID, seed=3) < -900
    assert line.rule == "foreground_percentile"
    assert np.mean(values[air] < -0.9) > 0.95
    assert np.mean(values[~air] > -0.9) > 0.75


@pytest.mark.parametrize("modality", ["PT", "NM"])
def test_functional_volumes_begin_at_zero(modality: str) -> None:
    voxels = ramp(-1, 1000, (100, 100, 10))
    voxels[0, 0, 0] = 1e6
    values, line = normalise_volume(volume(voxels, modality))
    assert line.rule == "percentile_from_zero"
    assert (line.lo, line.hi) == pytest.approx((0, 999), abs=0.5)
    assert values[0, 0, 1] == -1
    pet = head_pet(HEAD_SHAPE, GRID, seed=3)
    assert 0 < normalise_volume(volume(pet, modality))[1].hi <= pet.max()


def test_only_valid_voxels_count_and_the_others_are_dark() -> None:
    generator = np.random.default_rng(1)
    voxels = generator.uniform(100, 200, (30, 30, 30))
    valid = generator.random((30, 30, 30)) < 0.5
    voxels[~valid] = 1e9
    for modality in ("MR", "PT", "CT"):
        values, line = normalise_volume(volume(voxels, modality, valid), None)
        assert line.hi <= 1000
        assert (values[~valid] == -1).all()
        clean = voxels.copy()
        clean[~valid] = np.nan
        again, same = normalise_volume(volume(clean, modality, np.asfortranarray(valid)))
        assert same == line
        np.testing.assert_array_equal(values, again)


@pytest.mark.parametrize("modality", ["MR", "PT", "NM", ""])
@pytest.mark.parametrize("level", [0, -3, 7])
def test_a_constant_volume_is_dark_everywhere(modality: str, level: float) -> None:
    values, line = normalise_volume(volume(np.full((5, 5, 5), level), modality))
    assert np.isfinite(values).all()
    if modality in ("PT", "NM") and level > 0:
        assert line == VolumeNormalisation("percentile_from_zero", 0, 7)
    else:
        assert line == VolumeNormalisation("constant", level, level)
        assert (values == -1).all()
    np.testing.assert_allclose(denormalise_volume(values, line), level, atol=1e-6)


def test_a_volume_without_a_valid_voxel_is_dark_everywhere() -> None:
    for modality in ("MR", "PT", "CT"):
        values, line = normalise_volume(volume(ramp(5, 6), modality, np.zeros((20, 20, 20), bool)))
        assert (values == -1).all()
        assert line.rule in ("constant", "ct_window")


def test_a_few_spots_on_an_even_ground_survive() -> None:
    voxels = np.zeros((40, 40, 40))
    voxels[20, 20, 20] = 5
    for modality in ("MR", "PT"):
        values, line = normalise_volume(volume(voxels, modality))
        assert values[20, 20, 20] > values[0, 0, 0]
        assert np.isfinite([line.lo, line.hi]).all()


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_an_inverted_display_is_inverted_and_can_be_undone(modality: str) -> None:
    voxels = ramp(0, 900)
    plain, straight = normalise_volume(volume(voxels, modality))
    values, line = normalise_volume(volume(voxels, modality, inverted_display=True))
    assert line.inverted
    assert not straight.inverted
    assert (line.rule, line.lo, line.hi) == (straight.rule, straight.hi, straight.lo)
    np.testing.assert_allclose(values, -plain, atol=1e-6)
    inside = np.abs(values) < 1
    np.testing.assert_allclose(denormalise_volume(values, line)[inside], voxels[inside], atol=1e-3)
    masked = volume(voxels, modality, np.zeros(voxels.shape, bool), inverted_display=True)
    assert (normalise_volume(masked)[0] == -1).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-1e5, 1e5), st.floats(1e-2, 1e5), st.sampled_from(["CT", "MR", "PT"]))
def test_what_was_not_clipped_comes_back(seed: int, offset: float, scale: float, modality: str) -> None:
    voxels = (np.random.default_rng(seed).normal(size=(6, 7, 8)) * scale + offset).astype(np.float32)
    values, line = normalise_volume(volume(voxels, modality))
    assert np.abs(values).max() <= 1
    back = denormalise_volume(values, line)
    inside = (voxels >= line.lo) & (voxels <= line.hi)
    # Half a unit in the last place of 1 in [-1, 1], and of the value itself.
    tolerance = abs(line.hi - line.lo) * 2**-25 * 1.01 + np.spacing(np.abs(voxels))
    if line.rule != "constant":
        assert (np.abs(back - voxels)[inside] <= tolerance[inside]).all()


def test_order_in_memory_changes_nothing_but_itself() -> None:
    voxels = np.random.default_rng(5).gamma(2, 100, (40, 30, 20)).astype(np.float32)
    for modality in ("MR", "PT", "CT"):
        values, line = normalise_volume(volume(voxels, modality))
        fortran = replace(volume(voxels, modality), voxels=np.asfortranarray(voxels))
        others, other_line = normalise_volume(fortran)
        assert other_line == line
        assert others.flags.f_contiguous
        np.testing.assert_array_equal(others, values)
        assert normalise_volume(volume(voxels, modality))[1] == line


def test_percentiles_of_a_large_volume_come_from_a_sample() -> None:
    # Every other column is dark: a sample of every second voxel would see only those.
    voxels = np.zeros((100, 128, 512), np.float32)
    voxels[..., 1::2] = np.arange(100, dtype=np.float32)[:, None, None]
    for modality in ("PT", "MR"):
        _, line = normalise_volume(volume(voxels, modality))
        assert line.hi == pytest.approx(99, abs=1)
        assert line.rule != "min_max"
    voxels = voxels[..., 1::2] + 100
    _, line = normalise_volume(volume(np.repeat(voxels, 2, axis=2), "MR"))
    expected = np.percentile(voxels[voxels > 111], (0.5, 99.5))
    assert (line.lo, line.hi) == pytest.approx(tuple(expected), abs=1)


def test_no_large_copy_is_made() -> None:
    voxels = np.zeros((64, 512, 512), np.float32)
    voxels += np.arange(512, dtype=np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values, line = normalise_volume(Volume(voxels, np.eye(4), 0, "CT", "HU", b""))
    denormalise_volume(values, line)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2 * 64 * 1024 + 32 * 1024  # KiB: the two results of 64 MiB each
