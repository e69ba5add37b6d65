import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from tasks.codes import Code, PairError
from tasks.register.planar import register_images
from tasks.register.planar_map import distance, inverse, reaches, scaling, warp
from tests.shared_data import shared

SIZE = (240, 300)


def grey(picture):
    picture = np.asarray(picture, np.float32)
    if picture.ndim == 3:
        picture = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    return picture / 127.5 - 1


def scene(name, size=(300, 380)):
    picture = grey(getattr(data, name)())
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def as_infrared(picture):
    """Contrast inverted and bent, soft, noisy."""
    soft = cv2.GaussianBlur(-picture, (0, 0), 1.5)
    noise = np.random.default_rng(0).normal(0, 0.02, picture.shape)
    return np.clip(np.sign(soft) * np.abs(soft) ** 0.8 * 0.7 + 0.1 + noise, -1, 1).astype(np.float32)


def about_the_middle(linear, shift, size):
    middle = (np.array(size[::-1]) - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle + shift - matrix[:2, :2] @ middle
    return matrix


def seen_by_two_cameras(visible, infrared, matrix, size=SIZE):
    """The middles of the visible picture and of the infrared one under ``matrix``; and the map between them."""
    top, left = ((whole - part) // 2 for whole, part in zip(visible.shape, size, strict=True))
    cut = np.eye(3)
    cut[:2, 2] = left, top
    first = warp(infrared[None], inverse(matrix) @ cut, size)
    assert np.isfinite(first).all()
    second = visible[None, top : top + size[0], left : left + size[1]]
    return first, np.ascontiguousarray(second), inverse(cut) @ matrix @ cut


def pair(name, matrix):
    visible = scene(name)
    return seen_by_two_cameras(visible, as_infrared(visible), matrix)


SHIFTED = about_the_middle(np.eye(2), [9.0, -6.5], (300, 380))
TURNED = about_the_middle([[1.03, -0.05], [0.06, 0.97]], [7.0, -5.0], (300, 380))


@pytest.mark.parametrize("name", ["camera", "coffee", "chelsea", "astronaut"])
def test_a_translation_is_found_where_contrast_is_inverted(name):
    first, second, truth = pair(name, SHIFTED)
    registered = register_images(first, second, "translation")
    assert distance(registered.matrix, truth, SIZE) < 0.6
    assert registered.figures.decision == "edges"
    assert registered.figures.agreement_px < 2
    assert 0.9 < registered.figures.overlap < 1
    assert registered.figures.moved_px == pytest.approx(np.hypot(9, 6.5), abs=0.6)


@pytest.mark.parametrize("name", ["camera", "chelsea"])
def test_an_affine_map_is_found_where_contrast_is_inverted(name):
    first, second, truth = pair(name, TURNED)
    registered = register_images(first, second, "affine")
    assert distance(registered.matrix, truth, SIZE) < 1
    against = np.corrcoef(registered.pixels[0][registered.valid], second[0][registered.valid])[0, 1]
    assert against < -0.8


def test_pictures_of_one_view_and_of_different_sizes_are_aligned():
    visible = scene("astronaut")
    first, second, truth = seen_by_two_cameras(visible, as_infrared(visible), SHIFTED)
    half = cv2.resize(first[0], (150, 120), interpolation=cv2.INTER_AREA)[None]
    registered = register_images(half, second, "translation")
    expected = scaling(SIZE, (120, 150)) @ truth
    assert distance(registered.matrix, expected, SIZE) < 0.6
    assert registered.pixels.shape == second.shape


def test_colour_is_aligned_by_its_luma_and_kept():
    first, second, truth = pair("coffee", SHIFTED)
    colour = np.concatenate([first, first * 0.9, first * 0.8])
    registered = register_images(colour, second, "translation")
    assert registered.pixels.shape == (3, *SIZE)
    assert distance(registered.matrix, truth, SIZE) < 0.6
    valid = registered.valid
    np.testing.assert_allclose(registered.pixels[1][valid], 0.9 * registered.pixels[0][valid], atol=1e-5)


@pytest.mark.parametrize("method", ["translation", "affine"])
@pytest.mark.parametrize(("one", "other"), [("camera", "coffee"), ("chelsea", "astronaut")])
def test_pictures_that_do_not_match_are_refused(one, other, method):
    first, second = as_infrared(scene(one, SIZE))[None], scene(other, SIZE)[None]
    with pytest.raises(PairError) as caught:
        register_images(first, second, method)
    assert caught.value.code in (Code.REGISTRATION_FAILED, Code.NO_OVERLAP)
    assert "NMI" in caught.value.detail


def test_noise_and_nothing_are_refused():
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 120, 150)).astype(np.float32)
    picture = scene("camera", (120, 150))[None]
    for first in (noise, np.zeros_like(noise)):
        with pytest.raises(PairError) as caught:
            register_images(first, picture, "translation")
        assert caught.value.code is Code.REGISTRATION_FAILED


def test_the_result_does_not_depend_on_threads():
    first, second, _ = pair("camera", TURNED)
    results = []
    for threads in (1, 4):
        cv2.setNumThreads(threads)
        results.append(register_images(first, second, "affine"))
    assert results[0].matrix.tobytes() == results[1].matrix.tobytes()
    assert results[0].pixels.tobytes() == results[1].pixels.tobytes()
    assert results[0].figures == results[1].figures


def test_a_homography_takes_the_second_pictures_pixels_to_the_first_ones():
    first = np.random.default_rng(0).uniform(-1, 1, (1, 40, 50)).astype(np.float32)
    second = np.zeros((1, 30, 35), np.float32)
    registered = register_images(first, second, "homography", homography=np.array([[1, 0, 7], [0, 1, 5], [0, 0, 1.0]]))
    np.testing.assert_allclose(registered.pixels[0], first[0, 5:35, 7:42], atol=1e-6)
    assert registered.valid.all()
    assert registered.figures.decision == "homography"
    beyond = register_images(first, second, "homography", homography=np.array([[1, 0, -3], [0, 1, 20], [0, 0, 1.0]]))
    np.testing.assert_array_equal(beyond.valid, (np.arange(30) < 20)[:, None] & (np.arange(35) >= 3)[None])
    assert (beyond.pixels[0][~beyond.valid] == -1).all()


def test_a_homography_in_perspective_shows_nothing_from_behind_the_camera():
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0, 0.05, -0.5]])
    seen = reaches(matrix, (40, 50), (30, 35))
    assert not seen[:11].any()
    assert seen.any()


def test_homographies_that_no_camera_pair_has():
    picture = np.zeros((1, 30, 35), np.float32)
    for matrix in (None, np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(2)):
        with pytest.raises(ValueError, match="homography"):
            register_images(picture, picture, "homography", homography=matrix)
    with pytest.raises(PairError) as caught:
        register_images(picture, picture, "homography", homography=np.array([[1, 0, 900], [0, 1, 0], [0, 0, 1.0]]))
    assert caught.value.code is Code.NO_OVERLAP


def test_without_registration_sizes_are_equal_or_made_so():
    first, second = np.ones((1, 30, 30), np.float32), np.zeros((1, 60, 60), np.float32)
    assert register_images(second, second, "none").figures.decision == "same_size"
    resized = register_images(first, second, "resize")
    assert (resized.figures.decision, resized.pixels.shape) == ("resized", (1, 60, 60))
    assert resized.valid.all()
    with pytest.raises(PairError) as caught:
        register_images(first, second, "none")
    assert caught.value.code is Code.SIZE_MISMATCH


@pytest.mark.parametrize("stem", ["FLIR_00211", "FLIR_06570"])
def test_a_known_shift_of_a_real_pair_is_found(stem):
    folder = shared("data/pairs/roadscene")
    infrared, visible = (grey(Image.open(folder / side / f"{stem}.jpg")) for side in ("ir", "vi"))
    shift = about_the_middle(np.eye(2), [12.0, 8.0], visible.shape)
    size = (visible.shape[0] - 40, visible.shape[1] - 60)
    first, second, truth = seen_by_two_cameras(visible, infrared, shift, size)
    registered = register_images(first, second, "translation")
    # The data set's own alignment is good to a pixel or two.
    assert distance(registered.matrix, truth, size) < 3
