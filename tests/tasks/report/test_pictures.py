"""Small pictures, and the plots."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from tasks.report.figures import Distribution
from tasks.report.pictures import SIDE, jpeg_within, reduced
from tasks.report.plots import distribution_plot, pace_plot


@pytest.mark.parametrize(
    ("size", "aspect", "expected"),
    [((64, 48), 1.0, (64, 48)), ((1024, 512), 1.0, (SIDE, SIDE // 2)), ((100, 50), 4.0, (100, 200)),
     ((3000, 20), 1.0, (SIDE, 2)), ((100, 100), 4.0, (SIDE // 4, SIDE))],
)  # fmt: skip
def test_a_picture_is_reduced_never_enlarged_and_pixels_become_square(size, aspect, expected):
    assert reduced(Image.new("L", size), aspect).size == expected


def test_a_picture_takes_as_few_bytes_as_it_must():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    fine, coarse = jpeg_within(noise, 10**9), jpeg_within(noise, 30_000)
    assert len(coarse) <= 30_000 < len(fine)
    assert Image.open(io.BytesIO(coarse)).size == noise.size
    small = jpeg_within(noise, 6_000)
    assert len(small) <= 6_000
    assert Image.open(io.BytesIO(small)).size == (SIDE // 2, SIDE // 2)
    assert Image.open(io.BytesIO(jpeg_within(noise, 1))).size == (SIDE // 4, SIDE // 4)


@pytest.mark.parametrize(
    "values", [[1.0], [2.0] * 9, list(range(1000)), [*np.linspace(0, 1, 999), 1e9], [-1e-12, 1e-12], [1e8, 1e8 + 1]]
)
def test_a_distribution_of_any_values_is_a_plot(values):
    now = Distribution(np.array(values, np.float64))
    for before in (None, Distribution(np.array([0.0, 5.0]))):
        plot = distribution_plot(now, before)
        assert ET.fromstring(plot).tag.endswith("svg")
        assert len(plot) < 40_000


def test_the_pace_of_a_run_and_none_of_a_moment():
    assert pace_plot(np.full(100, 1e9), 1) is None
    assert pace_plot(1e9 + np.arange(5) * 60.0, 1) is None
    plot = pace_plot(1e9 + np.arange(500) * 1.5, 4)
    assert plot is not None
    assert ET.fromstring(plot).tag.endswith("svg")
