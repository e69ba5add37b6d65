"""Jobs: what is refused, and what changes the configuration hash."""

import pytest

from ddfm_core.default_steps import ADAPTIVE_START, ADAPTIVE_STEPS
from tasks.codes import ConfigurationError
from tasks.evaluation.evaluation import make_evaluation
from tasks.job import Job
from tasks.job_file import job_template, make_job, read_job
from tasks.report.request import make_request

JOB = {"first": "a", "second": "b", "out": "c"}


@pytest.mark.parametrize(
    ("make", "field", "settings"),
    [
        (make_job, "out", {"first": "a", "second": "b"}),
        # It lies inside the source, too, which another sentence would say with the whole place.
        (make_job, "out", {"first": "https://user:hush@host", "second": "b"}),
        (make_request, "out", {}),
        (make_evaluation, "out", {"data": "a"}),
        (make_evaluation, "data", {"out": "a"}),
    ],
)
def test_a_password_in_a_place_is_refused_and_not_repeated(make, field, settings):
    with pytest.raises(ConfigurationError, match="a URL must not hold credentials") as caught:
        make(settings | {field: "https://user:hush@host/folder"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, ["steps", "greater than or equal to 1", "0"]),
        ({"mode": "papper"}, ["mode", "'adaptive'", "'paper'", "'released'", "papper"]),
        ({"steps": 500}, ["steps is 500", "301 or less from timestep 300", "give a later start"]),
        ({"phi": 1}, ["phi is 1", "it belongs to 'paper'"]),
        ({"mode": "mean", "samples": 2}, ["samples is 2", "it must be 1 with mode 'mean'"]),
        ({"samples": 0}, ["samples", "greater than or equal to 1", "0"]),
        ({"bit_depth": 12}, ["bit_depth", "8", "16", "12"]),
        ({"device": "gpu"}, ["device", "gpu"]),
        ({"stepps": 3}, ["stepps", "no such field", "steps"]),
        ({"first": None}, ["give both first and second, or pairs"]),
        ({"pairs": "t.csv"}, ["not both"]),
        ({"first_range": [5, 5]}, ["first_range", "below"]),
        ({"out": "a/results"}, ["out", "a/results", "inside first"]),
        ({"out": "./b"}, ["inside second"]),
        ({"method": "../up"}, ["method"]),
        ({"deployment": "gpu"}, ["deployment"]),
        ({"update": "posterior", "eta": 0.5}, ["eta"]),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_what_is_allowed(change, words):
    with pytest.raises(ConfigurationError) as caught:
        make_job(JOB | change)
    for word in words:
        assert word in str(caught.value)


def test_several_wrong_fields_are_all_named():
    with pytest.raises(ConfigurationError) as caught:
        make_job(JOB | {"steps": 0, "batch": 0})
    assert len(str(caught.value).splitlines()) == 2


def test_the_template_is_a_valid_job_with_every_field():
    text = job_template()
    job = read_job(text)
    assert job == make_job({"first": "archive/infrared", "second": "archive/visible", "out": "archive/fused"})
    for name, info in Job.model_fields.items():
        assert f"{info.alias or name}: " in text
        assert f"# {info.description}\n" in text


@pytest.mark.parametrize("text", ["[1, 2]", "first: [", "just words"])
def test_files_that_hold_no_job(text):
    with pytest.raises(ConfigurationError, match="job file"):
        read_job(text)


def test_overrides_replace_fields_of_the_file():
    job = read_job("first: a\nsecond: b\nout: c\nsteps: 7\n", {"steps": 9, "out": "d"})
    assert (job.steps, job.out) == (9, "d")


def test_the_hash_changes_with_what_changes_pixels_and_with_nothing_else():
    base = make_job(JOB).config_hash("prior")
    for change in (
        {"steps": 25}, {"mode": "released"}, {"seed": 1}, {"bit_depth": 16}, {"register": "resize"}, {"penalty": 0.2},
        {"first_range": [0, 10]}, {"precision": "bfloat16"}, {"output": "none"}, {"samples": 2}, {"start": 999},
        {"use_prior": False}, {"mode": "max"},
    ):  # fmt: skip
        assert make_job(JOB | change).config_hash("prior") != base, change
    for change in (
        {"batch": 1}, {"out": "elsewhere"}, {"dataset": "x"}, {"chunk_pairs": 3}, {"device": "cpu"}, {"tv_weight": 1},
    ):  # fmt: skip
        assert make_job(JOB | change).config_hash("prior") == base, change
    assert make_job(JOB).config_hash("another prior") != base
    paper = JOB | {"mode": "paper"}
    for change in ({"phi": 1}, {"tv_weight": 1}, {"start": 300}):
        assert make_job(paper | change).config_hash("prior") != make_job(paper).config_hash("prior"), change


def test_a_default_and_the_same_written_out_are_one_configuration():
    default = make_job(JOB)
    written = make_job(JOB | {"mode": "adaptive", "steps": ADAPTIVE_STEPS, "start": ADAPTIVE_START})
    assert default.config_hash("prior") == written.config_hash("prior")
    assert default.resolved() == written == written.resolved()
    alone = make_job(JOB | {"use_prior": False}).resolved()
    assert (alone.steps, alone.start) == (ADAPTIVE_STEPS, None)
    assert make_job(alone.model_dump(mode="json")) == alone


def test_the_hash_has_nothing_that_a_method_without_noise_does_not_use():
    baseline = JOB | {"mode": "laplacian"}
    base = make_job(baseline).config_hash("prior")
    for change in ({"steps": 25}, {"seed": 1}, {"tv_weight": 0}, {"precision": "bfloat16"}, {"eta": 1}):
        assert make_job(baseline | change).config_hash("another prior") == base, change
    for change in ({"output": "stretch"}, {"bit_depth": 16}, {"first_range": [0, 10]}, {"mode": "gradient"}):
        assert make_job(baseline | change).config_hash("prior") != base, change
    alone = JOB | {"use_prior": False}
    assert make_job(alone | {"seed": 3}).config_hash("another prior") == make_job(alone).config_hash("prior")
    assert make_job(alone | {"steps": 3}).config_hash("prior") != make_job(alone).config_hash("prior")


def test_the_algorithm_in_words():
    assert make_job(JOB | {"mode": "max"}).algorithm == "max"
    start = f"from timestep {ADAPTIVE_START}"
    assert make_job(JOB).algorithm == f"adaptive, {ADAPTIVE_STEPS} steps, {start}"
    assert make_job(JOB | {"steps": 25, "samples": 4}).algorithm == f"adaptive, 25 steps, {start}, 4 samples"
    paper = JOB | {"mode": "paper"}
    assert make_job(paper | {"start": 300}).algorithm == "paper, 100 steps, from timestep 300"
    assert make_job(paper | {"phi": 0.1, "use_prior": False}).algorithm == "paper, 100 steps, phi 0.1, no prior"


def test_a_job_survives_json_by_name_and_by_alias():
    job = make_job(JOB | {"register": "resize", "first_range": [1, 2]})
    assert make_job(job.model_dump(mode="json")) == job
    assert make_job(job.model_dump(mode="json", by_alias=True)) == job
