"""Tables: our rows beside published ones, the best in bold, and where ours fall short."""

import math

import pytest

from tasks.evaluation.datasets import DataSet, Family, SetPair
from tasks.evaluation.gather import Means
from tasks.evaluation.tables import harvard_table, tables_text
from tasks.evaluation.tables import set_table as table_of_set

SIX = ("EN", "SD", "MI", "VIF", "Qabf", "SSIM")


def data_set(name, family):
    return DataSet(name, f"/d/{name}", family, "infrared", "visible", (SetPair("a", "/d/a", "/d/b"),))


def means(method, *figures, fused=2, pairs=2, seconds=0.5):
    return Means(method, pairs, fused, seconds, dict(zip(SIX, figures, strict=True)))


def set_table(data_set, rows, metrics):
    return table_of_set(data_set, rows, metrics, {one.method: "clip" for one in rows})


def line(table, start):
    return next(text for text in table.markdown().splitlines() if text.startswith(start))


def test_published_rows_come_first_with_their_source_and_the_best_of_ours_is_bold():
    rows = [means("mean", 6.4, 23.3, 1.8, 0.502, 0.344, 0.905), means("max", 7.0, 41.1, 5.1, 0.833, 0.344, math.nan)]
    table = set_table(data_set("tno", Family.TNO), rows, SIX)
    assert table.title == "tno (TNO, 2 pairs)"
    assert [row.label for row in table.rows] == ["DDFM", "CDDFuse", "mean", "max"]
    assert line(table, "| DDFM") == "| DDFM [1] | 7.06 | 51.42 | 2.21 | 0.81 | 0.49 | 0.95 |  |  |"
    assert line(table, "1. ") == "1. Zhao et al., DDFM, ICCV 2023, Table 1"
    assert line(table, "| `mean`") == (
        "| `mean` | 6.400 | 23.30 | 1.800 | 0.502 | **0.344** | **0.905** | 2/2 | 0.500 |"
    )
    assert line(table, "| `max`") == (
        "| `max` | **7.000** | **41.10** | **5.100** | **0.833** | **0.344** | - | 2/2 | 0.500 |"
    )


def test_every_cell_that_falls_short_is_told_by_how_much():
    rows = [means("good", 7.41, 52.61, 2.35, 0.7451, 0.65, 0.98), means("soft", 7.3, 43.0, 2.4, 0.7, 0.45, 1.0)]
    table = set_table(data_set("roadscene", Family.ROADSCENE), rows, SIX)
    own, later = (note for note in table.notes if note.startswith("Against"))
    assert own == (
        "Against DDFM in its own paper (two decimals): `good` reaches every cell; "
        "`soft` short in EN by 0.11, SD by 9.61, VIF by 0.05, Qabf by 0.20."
    )
    assert later.endswith("`good` reaches every cell; `soft` short in Qabf by 0.05.")


def test_a_method_that_fused_no_pair_is_not_compared():
    figures = (7.41, 52.61, 2.35, 0.75, 0.65, 0.98)
    rows = [means("lost", *[math.nan] * 6, fused=0), means("good", *figures)]
    roadscene = data_set("roadscene", Family.ROADSCENE)
    assert not any("lost" in note or "nan" in note for note in set_table(roadscene, rows, SIX).notes)
    assert not any(note.startswith("Against") for note in set_table(roadscene, rows[:1], SIX).notes)


def test_other_data_has_no_published_rows():
    table = set_table(data_set("mine", None), [means("mean", 1, 2, 3, 4, 5, 6)], SIX)
    assert table.title == "mine (infrared, visible, 2 pairs)"
    assert [row.label for row in table.rows] == ["mean"]
    assert not table.sources
    assert "published" not in table.notes[0].split(";")[1]
    assert "**" not in table.markdown()


def test_pairs_that_were_not_fused_are_seen():
    table = set_table(data_set("mine", None), [means("mean", *[math.nan] * 6, fused=0, pairs=3, seconds=math.nan)], SIX)
    assert line(table, "| `mean`") == "| `mean` | - | - | - | - | - | - | 0/3 | - |"


def test_a_mean_over_fewer_pairs_says_so():
    gappy = Means("max", 17, 17, 0.1, {"EN": 7.0, "VIF": 2.0}, {"VIF": 15})
    whole = Means("mean", 17, 17, 0.1, {"EN": 6.0, "VIF": 1.0})
    other = data_set("ours", None)
    assert (
        "Pairs without a figure (too small, or of one grey level) are not in its mean: VIF of `max` in 15 of 17 pairs."
    ) in set_table(other, [gappy, whole], ("EN", "VIF")).notes
    assert not any("without a figure" in note for note in set_table(other, [whole], ("EN", "VIF")).notes)


def test_the_least_error_is_the_best():
    rows = [Means(name, 1, 1, 0.1, {"MSE": error}) for name, error in (("a", 30.0), ("b", 20.0))]
    table = set_table(data_set("mine", None), rows, ("MSE",))
    assert [bool(row.best) for row in table.rows] == [False, True]


def test_the_harvard_sets_together():
    families = (Family.HARVARD_CT, Family.HARVARD_PET, Family.HARVARD_SPECT)
    sets = [data_set(family.lower(), family) for family in families]
    found = [
        (one, [means("mean", *[value] * 6, seconds=value)]) for one, value in zip(sets, (1.0, 2.0, 6.0), strict=True)
    ]
    table = harvard_table(found, SIX, {"mean": "clip"})
    assert table is not None
    assert line(table, "| `mean`") == "| `mean` | 3.000 | 3.000 | 3.000 | 3.000 | 3.000 | 3.000 | 6/6 | 3.000 |"
    assert line(table, "| DDFM [").startswith("| DDFM [1] | 4.64 | 63.11 |")
    assert harvard_table(found[:2], SIX, {}) is None
    assert "## Harvard (mean of the set means)" in tables_text([table])


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ({"a": "clip", "b": "clip"}, "Pictures are saved by clipping."),
        ({"a": "stretch", "b": "stretch"}, "Pictures are stretched from their least to their greatest luma before"),
        ({"a": "stretch", "b": "none"}, "Pictures are saved by clipping, but those of `a` are stretched from"),
    ],
)
def test_how_pictures_are_saved_is_said(saved, told):
    rows = [means(name, *[1.0] * 6) for name in saved]
    note = table_of_set(data_set("mine", None), rows, SIX, saved).notes[0]
    assert told in note
    assert "-stretch" not in note
    assert note.count("clipping") == ("clipping" in told)


def test_twins_are_explained_where_there_are_some():
    rows = [means(name, *[1.0] * 6) for name in ("a", "a-stretch")]
    note = table_of_set(data_set("mine", None), rows, SIX, {"a": "clip"}).notes[0]
    assert "saved by clipping. Rows that end in `-stretch` measure the same 8-bit pictures" in note
