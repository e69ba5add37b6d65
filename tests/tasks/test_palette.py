"""Colours of functional images."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from ddfm_core.colour import luma
from tasks.palette import PaletteName, coloured, palette_colours


@pytest.mark.parametrize("name", get_args(PaletteName))
def test_a_palette_runs_from_black_to_white(name):
    colours = palette_colours(name)
    assert colours.shape == (256, 3)
    assert (colours[0] == -1).all()
    assert (colours[-1] == 1).all()


def test_luma_is_the_fused_picture_and_chroma_that_of_the_uptake():
    fused = np.zeros((1, 16, 16), np.float32)
    uptake = np.full((1, 16, 16), -1, np.float32)
    uptake[:, :8] = -0.5
    picture = coloured(fused, uptake, "hot_iron")
    assert picture.shape == (3, 16, 16)
    red, green, blue = picture
    assert (red[:8] > green[:8]).all()
    # Black has no colour: where there is no uptake the picture stays grey.
    np.testing.assert_allclose(red[8:], blue[8:], atol=1e-6)
    np.testing.assert_allclose(luma(torch.from_numpy(picture)[None]).numpy(), 0, atol=1e-6)
