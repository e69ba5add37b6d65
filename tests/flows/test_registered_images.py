"""Archives of pictures that do not lie on each other."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import data

from tasks.codes import ConfigurationError
from tasks.job_file import make_job
from tests.archives import job_settings
from tests.flows.test_volumes import run

SHIFT = (6, -9)
"""Rows and columns by which the first pictures lie off."""


@pytest.fixture
def root(tmp_path):
    """A picture and its inverted, blurred, shifted twin; and two pictures of different things."""
    camera = np.asarray(Image.fromarray(data.camera()).resize((256, 256)))
    inverted = 255 - ndimage.gaussian_filter(camera, 1)
    pairs = {
        "rig1/a": (ndimage.shift(inverted, SHIFT, mode="nearest"), camera),
        "rig2/b": (np.asarray(Image.fromarray(data.coins()).resize((256, 256))), camera),
    }
    for key, pictures in pairs.items():
        for side, picture in zip(("ir", "vi"), pictures, strict=True):
            path = tmp_path / side / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.astype(np.uint8)).save(path)
    return tmp_path


def test_a_shift_is_found_and_what_does_not_match_is_rejected(root):
    found, refused = run(job_settings(root, register="translation", steps=1))
    assert (found["status"], found["registration_method"]) == ("ok", "translation")
    matrix = np.array(json.loads(found["registration_transform"]))
    np.testing.assert_allclose(matrix[:2, 2], SHIFT[::-1], atol=0.5)
    assert 0.9 < found["valid_share"] < 1
    assert np.isfinite(found["SSIM"])
    assert (refused["status"], refused["code"]) == ("rejected", "registration_failed")


def test_the_homography_of_each_camera_pair_goes_by_the_pattern_of_its_keys(root):
    matrix = [1, 0, SHIFT[1], 0, 1, SHIFT[0], 0, 0, 1]
    rows = run(job_settings(root, register="homography", homographies={"rig1/*": matrix}, steps=1))
    assert [row["code"] for row in rows] == [None, "registration_failed"]
    picture = np.asarray(Image.open(rows[0]["output_uri"]), dtype=float)
    camera = np.asarray(Image.open(root / "vi" / "rig1" / "a.png"), dtype=float)
    # Where the first source shows nothing, the result is the second one.
    outside = np.abs(picture - camera)[:, :9].mean()
    assert outside < np.abs(picture - camera)[:, 20:].mean()


def test_a_homography_that_is_missing_or_not_for_this_kind_stops_the_job():
    settings = {"first": "a", "second": "b", "out": "c"}
    with pytest.raises(ConfigurationError, match="homographies"):
        make_job(settings | {"register": "homography"})
    with pytest.raises(ConfigurationError, match="register: rigid is not for images"):
        make_job(settings | {"register": "rigid", "kind": "images"})
