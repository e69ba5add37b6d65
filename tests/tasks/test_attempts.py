"""Start marks: what stays of them, and what it says."""

from collections import Counter

import pytest

from tasks.attempts import Deaths, Marks, clear_marks, marked_chunks, read_deaths
from tasks.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(str(tmp_path), "20260101T000000-000000-abcdef")


def test_marks_that_were_cleared_say_nothing(run):
    marks = Marks(run)
    mark = marks.set("0000", "0001", [0, 1, 2])
    with marks.around("0000", "0002", [4]):
        assert read_deaths(run, "0000").keys() == {"0001", "0002"}
    marks.clear(mark)
    marks.clear(mark)
    assert read_deaths(run, "0000") == {}


def test_a_mark_is_cleared_when_its_block_fails(run):
    marks = Marks(run)
    with pytest.raises(ZeroDivisionError), marks.around("0000", "0001", [0]):
        raise ZeroDivisionError
    assert read_deaths(run, "0000") == {}


def test_clear_all_leaves_the_marks_of_other_processes(run):
    Marks(run).set("0000", "0001", [0, 1])
    ours = Marks(run)
    ours.set("0000", "0001", [1])
    ours.set("0000", "0002", [0])
    ours.clear_all()
    assert read_deaths(run, "0000").keys() == {"0001"}


def test_deaths_are_counted_by_pair_and_shard(run):
    for positions in ([0, 1, 2, 3], [2, 3], [2]):
        Marks(run).set("0000", "0007", positions)
    Marks(run).set("0001", "0007", [0])
    (found,) = read_deaths(run, "0000").values()
    assert dict(found.by_position) == {0: 1, 1: 1, 2: 3, 3: 2}
    assert found.alone == {2}


def test_a_pair_is_poison_after_two_deaths_of_which_one_was_its_own():
    once = Deaths(Counter({0: 1}), frozenset({0}))
    assert not once.is_suspect(0, 1)
    assert not once.is_poison(0, 1)
    assert once.is_poison(0, 2)  # an attempt that failed before counts
    together = Deaths(Counter({0: 2, 1: 2}), frozenset())
    assert together.is_suspect(0, 1)
    assert not together.is_poison(0, 1)
    assert Deaths(Counter({0: 2}), frozenset({0})).is_poison(0, 1)
    assert not Deaths().is_suspect(5, 1)
    assert (together.most, Deaths().most) == (2, 0)


def test_a_mark_of_pictures_being_written_outlives_an_orderly_end(run):
    marks = Marks(run)
    marks.set("0000", "0001", [0])
    mark = marks.set("0000", "0002", [0, 1])
    marks.keep(mark)
    marks.clear_all()
    assert marked_chunks(run) == {("0000", "0002")}
    marks.clear(mark)
    assert marked_chunks(run) == set()


def test_marks_of_a_finished_run_are_taken_away(run):
    Marks(run).set("0000", "0001", [0])
    Marks(run).set("0003", "0001", [0])
    assert marked_chunks(run) == {("0000", "0001"), ("0003", "0001")}
    clear_marks(run)
    assert marked_chunks(run) == set()
