"""Maps of numbers as TIFF files."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from tasks.codes import Code, PairError
from tasks.publish.tiff import encode_tiff

VALUES = np.random.default_rng(0).normal(3, 1, (17, 23)).astype(np.float32)


def test_the_numbers_come_back_in_two_readers():
    content = encode_tiff(VALUES)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(content)), VALUES)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), VALUES)


def test_the_same_numbers_give_the_same_bytes_and_nothing_else_is_told():
    content = encode_tiff(VALUES)
    assert encode_tiff(VALUES.copy()) == content
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        assert not {"Software", "DateTime", "ImageDescription"} & {tag.name for tag in file.pages[0].tags}


def test_what_is_no_map_is_refused():
    with pytest.raises(ValueError, match="float32 values of two axes"):
        encode_tiff(VALUES[None])
    with pytest.raises(PairError) as caught:
        encode_tiff(np.full((4, 4), np.nan, np.float32))
    assert caught.value.code == Code.FUSION_FAILED
