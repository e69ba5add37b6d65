from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk

from flows.samples.grids import rigid_motion, slices_grid
from flows.samples.head import head_corners, head_ct, head_landmarks, head_mr, head_pet
from tasks.codes import Code, PairError
from tasks.register.affine_map import AffineMap, rotation_matrix, rotation_vector
from tasks.register.foreground import overlap_and_dice
from tasks.register.grid import resample
from tasks.register.judge import Bounds, evidence_for
from tasks.register.rigid import Found, Scene, refine
from tasks.register.similarity import Clock
from tasks.register.volumes import RegistrationOptions, register_volumes
from tasks.volume import Volume

SHAPE, SPACING = (36, 48, 48), (4.0, 4.5, 4.5)
MOTION = rigid_motion((1, 0.4, -0.3), 9, (8, -6, 5))
RIGID = RegistrationOptions(method="rigid")


def scan(modality, motion=None, *, seed=0, noise_seed=1, shape=SHAPE, spacing=SPACING, turn=None, **facts):
    affine = slices_grid(shape, spacing, (0, 5, 0), turn)
    picture = {"CT": head_ct, "MR": head_mr, "PT": head_pet}[modality]
    voxels = picture(shape, affine, motion, seed=seed, noise_seed=noise_seed)
    return Volume(voxels, affine, 0, modality, {"CT": "HU", "MR": "", "PT": "SUVbw"}[modality], b"", **facts)


@cache
def mr():
    return scan("MR")


@cache
def ct():
    return scan("CT", MOTION, noise_seed=2)


@cache
def aligned():
    return register_volumes(mr(), ct(), RIGID)


def target_errors(registered, motion, tmp_path):
    path = tmp_path / "found.tfm"
    path.write_text(registered.transform)
    found = sitk.ReadTransform(str(path))
    to_lps = np.diag([-1.0, -1, 1])
    points = np.vstack([head_corners(), head_landmarks()])
    got = np.array([found.TransformPoint((to_lps @ point).tolist()) for point in points]) @ to_lps
    errors = np.linalg.norm(got - (points @ motion[:3, :3].T + motion[:3, 3]), axis=1)
    return errors[:8].mean(), errors[8:].mean()


def refused(fixed, moving, options=RIGID):
    with pytest.raises(PairError) as caught:
        register_volumes(fixed, moving, options)
    return caught.value


def same(first, second):
    return (
        first.voxels.tobytes() == second.voxels.tobytes()
        and first.valid.tobytes() == second.valid.tobytes()
        and first.transform == second.transform
        and replace(first.figures, seconds=0) == replace(second.figures, seconds=0)
    )


def test_a_ct_is_laid_over_the_mr(tmp_path):
    corners, landmarks = target_errors(aligned(), MOTION, tmp_path)
    assert corners < 2
    assert landmarks < 1
    figures = aligned().figures
    assert (figures.method, figures.decision) == ("rigid", "registered")
    assert figures.mi_after > figures.mi_before
    assert figures.rotation_deg == pytest.approx(9, abs=0.7)
    assert figures.agreement_mm < 2
    assert figures.mirror < 0.985
    assert aligned().voxels.shape == SHAPE
    assert aligned().voxels.dtype == np.float32
    assert (aligned().voxels[~aligned().valid] == -1000).all()
    # Bone lies on bone: against the CT of a head that never moved.
    truth = scan("CT").voxels
    inside = aligned().valid & (np.abs(truth - np.median(truth)) < 3000)
    assert np.corrcoef(truth[inside], aligned().voxels[inside])[0, 1] > 0.93


def test_the_same_pair_gives_the_same_transform_twice():
    """Although ITK was told to use several threads in between."""
    expected = aligned()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    assert same(expected, register_volumes(mr(), ct(), RIGID))


def test_a_registration_that_failed_is_refused_although_mutual_information_improved():
    motion = rigid_motion((1, 0.3, 0.2), 20, (18, -22, 10))
    scene = Scene(scan("MR"), scan("CT", motion, noise_seed=2), Clock(60))
    turn = rigid_motion((0, 1, 0), 150)[:3, :3]
    there, here = scene.fixed_foreground, scene.moving_foreground
    wrong, peak = refine(scene.medium, AffineMap(turn, here.centre - turn @ there.centre))
    assert scene.box.distance(wrong, AffineMap(motion[:3, :3], motion[:3, 3])) > 90
    before, after = scene.medium.information(scene.starts[0]), scene.medium.information(wrong)
    assert after.mutual > 1.5 * before.mutual
    assert after.normalised > before.normalised
    dice = [overlap_and_dice(there, here, side)[1] for side in (scene.starts[0], wrong)]
    assert dice[1] > dice[0] + 0.05
    # Even where no bound is set to what may be moved, and no other alignment is known.
    anything = Bounds(180, 1000, 0.6, 2.0)
    with pytest.raises(PairError) as caught:
        evidence_for(scene, wrong, True, Found(wrong, peak.value, 0.0), anything, 0, 20)
    assert caught.value.code is Code.REGISTRATION_FAILED


def test_the_bounds_hold():
    scene = Scene(mr(), ct(), Clock(60))
    truth, peak = refine(scene.medium, AffineMap(MOTION[:3, :3], MOTION[:3, 3]))
    found = Found(truth, peak.value, 0.0)
    bounds = Bounds(30, 60, 0.6, 2)
    for stricter, of, word in (
        (replace(bounds, max_rotation_deg=5.0), found, "turned by"),
        (replace(bounds, max_translation_mm=1.0), found, "moved by"),
        (replace(bounds, min_overlap=0.999), found, "overlap"),
        (replace(bounds, agreement_mm=0.01), found, "independent ways"),
        (bounds, replace(found, rival=0.95 * peak.value), "another alignment"),
    ):
        with pytest.raises(PairError) as caught:
            evidence_for(scene, truth, True, of, stricter, 0, 20)
        assert caught.value.code is (Code.NO_OVERLAP if word == "overlap" else Code.REGISTRATION_FAILED)
        assert word in caught.value.detail
    assert "not done after 0.2 s" in refused(mr(), ct(), replace(RIGID, max_seconds=0.2)).detail


def test_pairs_that_do_not_belong_together_are_refused():
    moving = ct()
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    others = (
        scan("CT", MOTION, seed=4),
        replace(moving, voxels=moving.voxels[:, :, ::-1].copy()),
        replace(moving, voxels=noise, modality="", unit=""),
    )
    for other in others:
        assert refused(mr(), other).code in (Code.REGISTRATION_FAILED, Code.NO_OVERLAP)


def test_what_holds_nothing_is_refused():
    for voxels in (np.full(SHAPE, 40, np.float32), np.zeros(SHAPE, np.float32), np.full(SHAPE, -1000, np.float32)):
        for options in (RIGID, RegistrationOptions(method="header")):
            assert refused(mr(), replace(ct(), voxels=voxels), options).code is Code.REGISTRATION_FAILED
    nothing_valid = replace(ct(), valid=np.zeros(SHAPE, bool))
    assert refused(mr(), nothing_valid).code is Code.REGISTRATION_FAILED


def test_a_shared_frame_of_reference_is_aligned_by_the_headers():
    fixed = replace(mr(), frame_of_reference="1.2.3")
    moving = scan("CT", noise_seed=2, shape=(40, 40, 40), spacing=(4.2, 5, 5), frame_of_reference="1.2.3")
    registered = register_volumes(fixed, moving, RegistrationOptions())
    assert (registered.figures.method, registered.figures.decision) == ("header", "header")
    assert registered.transform is None
    voxels, valid = resample(moving, fixed)
    np.testing.assert_array_equal(registered.voxels, voxels)
    np.testing.assert_array_equal(registered.valid, valid)
    assert registered.figures.overlap > 0.9


def test_a_patient_who_moved_within_the_frame_is_told_of():
    frame = {"frame_of_reference": "1.2.3"}
    registered = register_volumes(replace(mr(), **frame), replace(ct(), **frame), RegistrationOptions())
    assert registered.figures.decision == "header_unconfirmed"
    assert registered.figures.agreement_mm > 5


def test_headers_that_lie_apart_are_refused():
    away = ct().affine.copy()
    away[2, 3] += 150
    error = refused(mr(), replace(ct(), affine=away), RegistrationOptions(method="header"))
    assert error.code is Code.NO_OVERLAP


def test_without_orientation_the_header_is_not_used():
    fixed = replace(mr(), frame_of_reference="1.2.3")
    lost = replace(scan("CT"), in_scanner_space=False, frame_of_reference="1.2.3")
    assert refused(fixed, lost, RegistrationOptions(method="header")).code is Code.NO_GEOMETRY
    away = lost.affine.copy()
    away[:3, 3] += 700
    registered = register_volumes(fixed, replace(lost, affine=away), RegistrationOptions())
    assert registered.figures.method == "rigid"
    assert registered.figures.translation_mm < 10


def test_none_demands_one_grid():
    figures = register_volumes(mr(), scan("CT"), RegistrationOptions(method="none")).figures
    assert (figures.method, figures.decision) == ("none", "same_grid")
    shifted = ct().affine.copy()
    shifted[0, 3] += 0.01
    error = refused(mr(), replace(ct(), affine=shifted), RegistrationOptions(method="none"))
    assert error.code is Code.GRID_MISMATCH


def test_volumes_that_lie_over_each_other_already_are_not_blurred():
    moving = scan("CT", noise_seed=2)
    registered = register_volumes(mr(), moving, RegistrationOptions())
    assert registered.figures.decision == "same_grid"
    assert registered.voxels is moving.voxels
    assert registered.valid.all()


def test_padding_is_not_what_is_aligned(tmp_path):
    """A round field of view that stands still while the head in it moved."""
    moving = ct()
    rows, columns = np.indices(SHAPE[1:]) - 23.5
    valid = np.broadcast_to(np.hypot(rows, columns) < 23.5, SHAPE).copy()
    voxels = np.where(valid, moving.voxels, np.float32(-2000))
    # As many readers leave it: the padding is far below everything else.
    registered = register_volumes(mr(), replace(moving, voxels=voxels, valid=valid), RIGID)
    corners, _ = target_errors(registered, MOTION, tmp_path)
    assert corners < 2
    assert registered.voxels[registered.valid].min() >= -1024
    assert not registered.valid.all()


def test_an_oblique_pet_with_other_voxels_finds_its_place(tmp_path):
    turn = rigid_motion((0.2, 1, 0.5), 14)
    moving = scan("PT", MOTION, noise_seed=3, shape=(44, 40, 42), spacing=(4.2, 5.0, 5.0), turn=turn)
    registered = register_volumes(mr(), moving, RIGID)
    corners, landmarks = target_errors(registered, MOTION, tmp_path)
    assert corners < 3
    assert landmarks < 1.5


def test_an_affine_map_is_made_by_choice_only(tmp_path):
    """A scanner whose rows are 3 per cent too long."""
    scale = np.diag([1.03, 1.0, 0.99, 1])
    moving = replace(ct(), affine=scale @ ct().affine)
    registered = register_volumes(mr(), moving, replace(RIGID, method="affine", agreement_mm=4.0))
    assert registered.figures.method == "affine"
    assert "AffineTransform" in registered.transform
    corners, _ = target_errors(registered, scale @ MOTION, tmp_path)
    assert corners < 3


def test_splines_are_made_by_choice_only_and_do_not_fold():
    registered = register_volumes(mr(), ct(), replace(RIGID, method="bspline"))
    assert registered.figures.method == "bspline"
    assert 0 < registered.figures.jacobian_min < 1
    assert "BSplineTransform" in registered.transform


def test_a_rotation_is_its_vector():
    vector = np.array([0.3, -1.2, 0.8])
    np.testing.assert_allclose(rotation_vector(rotation_matrix(vector)), vector)
    np.testing.assert_allclose(rotation_matrix(np.zeros(3)), np.eye(3))
    assert AffineMap(rotation_matrix(vector), np.zeros(3)).rotation_degrees == pytest.approx(
        np.rad2deg(np.linalg.norm(vector))
    )
