import hashlib
from pathlib import Path

import numpy as np
import pytest

from flows.demo_archive import DemoSet, make_demo_archive
from tasks.codes import Code, PairError
from tasks.read.raster import Image, read_raster


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[DemoSet]:
    return make_demo_archive(tmp_path_factory.mktemp("demo"))


def read(path: Path) -> Image:
    return read_raster(path.read_bytes(), max_pixels=10**6)


def test_two_sets_of_pairs_by_stem(sets: list[DemoSet]) -> None:
    assert [(each.name, each.first.name, each.second.name, each.pairs, each.broken) for each in sets] == [
        ("infrared_visible", "infrared", "visible", 6, 1),
        ("ct_mri", "ct", "mri", 3, 0),
    ]
    for each in sets:
        names = [sorted(path.name for path in side.iterdir()) for side in (each.first, each.second)]
        assert names[0] == names[1]
        assert len(names[0]) == each.pairs


def test_one_file_is_cut_short_and_has_a_good_partner(sets: list[DemoSet]) -> None:
    broken = []
    for each in sets:
        for path in sorted((*each.first.iterdir(), *each.second.iterdir())):
            try:
                read(path)
            except PairError as error:
                broken.append((path.name, path.parent.name, error.code))
    assert broken == [("06_copy_cut_short.png", "infrared", Code.TRUNCATED)]


def test_kinds_and_sizes(sets: list[DemoSet]) -> None:
    streets, heads = sets
    for path in sorted(streets.second.iterdir()):
        assert read(path).pixels.shape == (240, 320, 3)
    bits = [read(path).stored_bits for path in sorted(streets.first.iterdir())[:5]]
    assert bits == [8, 8, 16, 8, 8]
    deep = read(streets.first / "03_crossing_16_bit.png").pixels
    assert 7000 < deep.min() < 8000 < 9000 < deep.max() < 9600
    for path in (*heads.first.iterdir(), *heads.second.iterdir()):
        assert read(path).pixels.shape == (224, 224)


def test_the_sources_show_different_things(sets: list[DemoSet]) -> None:
    streets, heads = sets
    infrared = read(streets.first / "01_street_lamp.png").pixels.astype(float)
    visible = read(streets.second / "01_street_lamp.png").pixels.mean(-1)
    walker = np.s_[152:168, 74:83]
    assert infrared[walker].mean() > 1.8 * infrared.mean()
    assert visible[walker].mean() < 0.8 * visible.mean()
    ct = read(heads.first / "01_ventricles.png").pixels.astype(float)
    mri = read(heads.second / "01_ventricles.png").pixels.astype(float)
    skull, ventricle = np.s_[108:116, 35:40], np.s_[104:120, 104:119]
    assert ct[skull].mean() > 180 > 60 > mri[skull].mean()
    assert mri[ventricle].mean() > 200 > 90 > ct[ventricle].mean()


def test_the_same_bytes_every_time(sets: list[DemoSet], tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    stale = tmp_path / "ct_mri" / "ct" / "01_ventricles.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"left over")
    make_demo_archive(tmp_path)
    assert digests(tmp_path) == digests(sets[0].first.parents[1])
