"""No damaged or hostile picture crashes, blocks or floods the process that reads it, or costs a run another pair.

All 1,000 mutants are read by `python -m benchmarks.mutated_inputs`; here every fifth of them.
"""

from pathlib import Path

import pytest

from flows.fuse_archive import run_archive
from flows.terminal import TerminalWatcher, make_console
from tasks.codes import Code, PairError, Status
from tasks.current import current_rows
from tasks.job_file import make_job
from tasks.read.raster import RASTER_SUFFIXES, read_raster
from tests import failing_readers
from tests.archives import job_settings, make_archive, write_picture
from tests.mutant_bombs import BOMBS
from tests.mutant_trial import IMAGE, MEMORY, SECONDS, try_mutants
from tests.mutants import CHANGES, TOTAL, make_mutant, sample, slice_numbers
from tests.picture_files import GREY, KINDS

ALLOWED = {IMAGE, *(code for code in Code if code.status == Status.REJECTED)}


def test_mutants_are_pictures_or_rejected_within_time_and_memory() -> None:
    trials = try_mutants(slice_numbers(5))
    assert len(trials) > 180
    assert [trial for trial in trials if trial.outcome not in ALLOWED] == []
    assert max(trial.seconds for trial in trials) < SECONDS
    assert max(trial.peak for trial in trials) < MEMORY
    outcomes = {trial.outcome for trial in trials}
    assert {IMAGE, Code.TRUNCATED, Code.DECODE_FAILED, Code.TOO_LARGE, Code.TOO_SMALL} <= outcomes


def test_mutants_are_the_same_every_time_and_of_every_kind() -> None:
    numbers = range(len(BOMBS), TOTAL)
    mutants = [make_mutant(number) for number in numbers]
    assert [make_mutant(number) for number in numbers[::50]] == mutants[::50]
    assert {mutant.kind for mutant in mutants} == set(KINDS)
    assert {mutant.change for mutant in mutants} == set(CHANGES)
    assert all(mutant.data != sample(mutant.kind) for mutant in mutants)


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_made_from_files_that_are_read(kind: str) -> None:
    refused = {"JPEG CMYK": Code.CMYK, "TIFF pages": Code.MULTI_PAGE}
    if kind in refused:
        with pytest.raises(PairError) as caught:
            read_raster(sample(kind), max_pixels=10**6)
        assert caught.value.code == refused[kind]
    else:
        assert sorted(read_raster(sample(kind), max_pixels=10**6).size) == sorted(GREY.shape)


def test_every_suffix_has_a_kind() -> None:
    formats = {".tif": "TIFF", ".jpg": "JPEG"}
    assert {formats.get(suffix, suffix[1:].upper()) for suffix in RASTER_SUFFIXES - {".tiff", ".jpeg"}} == {
        kind.split()[0].upper() for kind in KINDS
    }


def test_a_trial_names_the_culprit_and_goes_on() -> None:
    numbers = list(failing_readers.OUTCOMES)
    trials = try_mutants(numbers, reader="tests.failing_readers:read", seconds=0.5)
    assert {trial.number: trial.outcome for trial in trials} == failing_readers.OUTCOMES


# A whole run

SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "none": ".png"}


def refused_mutants(count: int) -> dict[str, tuple[bytes, Code]]:
    """File name to bytes and code, of as many kinds as can be."""
    refused: dict[str, tuple[bytes, Code]] = {}
    for number in slice_numbers(7):
        mutant = make_mutant(number)
        if len(refused) == count or len(mutant.data) > 10**6:
            continue
        try:
            read_raster(mutant.data, max_pixels=10**6)
        except PairError as error:
            file_format = mutant.kind.split()[0]
            refused[f"m{number}{SUFFIXES.get(file_format, '.' + file_format.lower())}"] = mutant.data, error.code
    return refused


def test_mutants_beside_good_pairs_become_rows_and_the_good_ones_are_fused(tmp_path: Path) -> None:
    root = make_archive(tmp_path, 4)
    mutants = refused_mutants(30)
    assert len(mutants) == 30
    for index, (name, (data, _)) in enumerate(mutants.items()):
        damaged, good = ("ir", "vi") if index % 2 else ("vi", "ir")
        (root / damaged / name).write_bytes(data)
        write_picture(root / good / f"{Path(name).stem}.png", 1)
    settings = job_settings(root, steps=1, chunk_pairs=8, max_pixels=10**6)
    watcher = TerminalWatcher(make_console())
    run_archive(make_job(settings), watcher)
    (summary,) = watcher.summaries
    rows = {row["pair_key"]: row for row in current_rows(str(settings["out"]), columns=None).to_pylist()}
    expected = {Path(name).stem: code for name, (_, code) in mutants.items()}
    assert {key: row["code"] for key, row in rows.items() if row["status"] != Status.OK} == expected
    assert {key for key, row in rows.items() if row["status"] == Status.OK} == {"000", "001", "002", "003"}
    assert (summary.count(Status.OK), summary.count(Status.REJECTED)) == (4, 30)
