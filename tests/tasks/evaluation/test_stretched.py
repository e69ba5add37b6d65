"""Pictures stretched to the full range as papers save them."""

import numpy as np
import pytest
import torch

from ddfm_core.colour import to_ycbcr
from tasks.evaluation.stretched import stretch


def levels(*values):
    return np.array(values, np.float32)[None, None]


def test_a_grey_picture_goes_from_end_to_end():
    assert stretch(levels(-0.5, 0, 0.25, 0.5), levels(0)).tolist() == [[[-1, 0, 0.5, 1]]]
    full = levels(-1, 0.25, 1)
    assert np.array_equal(stretch(full, full), full)


def test_a_flat_picture_stays():
    assert np.array_equal(stretch(levels(0.25, 0.25), levels(0)), levels(0.25, 0.25))


def test_colour_keeps_its_chroma_and_its_luma_is_stretched():
    picture = np.random.default_rng(0).uniform(-0.1, 0.1, (3, 16, 16)).astype(np.float32)
    # Grey at both ends of luma, where colour would leave the range.
    picture[:, 0, 0], picture[:, 0, 1] = -0.5, 0.5
    before, after = (to_ycbcr(torch.from_numpy(one)[None])[0].numpy() for one in (picture, stretch(picture, picture)))
    assert np.allclose(after[0], 2 * before[0], atol=1e-6)
    assert np.allclose(after[1:], before[1:], atol=1e-6)


@pytest.mark.parametrize("pseudo_colour", [False, True])
def test_what_leaves_the_range_follows_the_rule_of_fusion(pseudo_colour):
    picture = np.zeros((3, 1, 2), np.float32)
    picture[0, 0, 1] = 1
    found = stretch(picture, levels(0) if pseudo_colour else picture)
    assert abs(found).max() <= 1
    before, after = (to_ycbcr(torch.from_numpy(one)[None])[0, :, 0, 1] for one in (picture, found))
    # The redder pixel becomes white, or keeps its red and cannot.
    assert after[0] < 0.9 if pseudo_colour else after[0] == pytest.approx(1, abs=1e-6)
    assert torch.allclose(after[1:], before[1:] if pseudo_colour else torch.zeros(2), atol=1e-6)
