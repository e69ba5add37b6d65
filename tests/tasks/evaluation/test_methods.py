"""Methods as people write them, and what an evaluation makes of them."""

import pytest

from tasks.codes import ConfigurationError
from tasks.evaluation.datasets import DataSet, SetPair
from tasks.evaluation.evaluation import make_evaluation, pairs_table
from tasks.evaluation.methods import default_methods, parse_grid, parse_methods

PAIRS = (SetPair("a", "/d/ir/a.png", "/d/vi/a.png"), SetPair('b, "c"', None, "/d/vi/b.png"))
DATA_SET = DataSet("made", "/d", None, "infrared", "visible", PAIRS)


def as_dict(methods):
    return {method.name: dict(method.settings) for method in methods}


def evaluation(tmp_path, **settings):
    return make_evaluation({"data": f"{tmp_path}/data", "out": f"{tmp_path}/out"} | settings)


def test_a_mode_a_configuration_and_a_named_one():
    texts = ("laplacian", "paper:steps=10,tv_weight=0", "quick=paper:steps=5,penalty=1e-3,use_prior=false", "laplacian")
    assert as_dict(parse_methods(texts)) == {
        "laplacian": {"mode": "laplacian"},
        "paper_steps-10_tv_weight-0": {"mode": "paper", "steps": 10, "tv_weight": 0},
        "quick": {"mode": "paper", "steps": 5, "penalty": 0.001, "use_prior": False},
    }


def test_the_ablations_of_table_2():
    assert as_dict(parse_methods(("table2",))) == {
        "without-prior": {"mode": "paper", "use_prior": False},
        "without-tv": {"mode": "paper", "tv_weight": 0},
        "phi-0.1": {"mode": "paper", "phi": 0.1},
        "phi-1": {"mode": "paper", "phi": 1},
        "paper": {"mode": "paper"},
    }


def test_by_default_every_mode_that_works():
    names = [method.name for method in default_methods()]
    assert names[-4:] == ["mean", "max", "laplacian", "gradient"]
    assert names[:3] == ["adaptive", "paper", "released"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("magic", "no mode 'magic'; allowed are"),
        ("paper:speed=3", "'speed=3' is not FIELD=VALUE with a field of steps"),
        ("paper:steps", "'steps' is not FIELD=VALUE"),
        ("paper:steps=1,steps=2", "steps is given twice"),
        ("a b=paper", "'a b' is no name"),
        ("../up=paper", "is no name"),
        ("paper:out=x", "'out=x' is not FIELD=VALUE"),
    ],
)
def test_a_wrong_method_is_named(text, words):
    with pytest.raises(ConfigurationError, match="methods") as error:
        parse_methods((text,))
    assert words in str(error.value)


def test_one_name_for_two_configurations_is_refused():
    with pytest.raises(ConfigurationError, match="quick stands for two"):
        parse_methods(("quick=paper:steps=1", "quick=paper:steps=2"))


def test_a_grid_is_every_combination():
    assert as_dict(parse_grid(("steps=5,10", "start=300,999"))) == {
        "adaptive_steps-5_start-300": {"mode": "adaptive", "steps": 5, "start": 300},
        "adaptive_steps-5_start-999": {"mode": "adaptive", "steps": 5, "start": 999},
        "adaptive_steps-10_start-300": {"mode": "adaptive", "steps": 10, "start": 300},
        "adaptive_steps-10_start-999": {"mode": "adaptive", "steps": 10, "start": 999},
    }
    assert as_dict(parse_grid(("mode=paper", "steps=5,10", "tv_weight=0.1,1"))) == {
        "paper_steps-5_tv_weight-0.1": {"mode": "paper", "steps": 5, "tv_weight": 0.1},
        "paper_steps-5_tv_weight-1": {"mode": "paper", "steps": 5, "tv_weight": 1},
        "paper_steps-10_tv_weight-0.1": {"mode": "paper", "steps": 10, "tv_weight": 0.1},
        "paper_steps-10_tv_weight-1": {"mode": "paper", "steps": 10, "tv_weight": 1},
    }
    assert as_dict(parse_grid(("mode=released,paper", "steps=5"))).keys() == {"released_steps-5", "paper_steps-5"}
    # What the grid goes through by itself are weights of the paper's rule.
    assert [method.mode for method in parse_grid(())] == ["paper"] * 27


@pytest.mark.parametrize("texts", [("steps",), ("steps=",), ("steps=1,",), ("steps=1", "steps=2"), ("speed=1",)])
def test_a_wrong_grid_is_named(texts):
    with pytest.raises(ConfigurationError, match="grid"):
        parse_grid(texts)


def test_an_evaluation_fills_in_what_a_method_does_not_say(tmp_path):
    asked = evaluation(
        tmp_path, methods=("paper", "own=paper:steps=3,output=stretch", "mean"), steps=7, also_stretch=True
    )
    methods = {method.name: method for method in asked.chosen_methods()}
    assert list(methods) == ["paper", "own", "mean"]
    jobs = {name: asked.job(DATA_SET, method) for name, method in methods.items()}
    assert (jobs["paper"].steps, jobs["own"].steps) == (7, 3)
    rules = {name: job.fusion_config().output_rule() for name, job in jobs.items()}
    assert rules == {"paper": "clip", "own": "stretch", "mean": "clip"}
    twins = [method.twin_name for method in methods.values() if asked.has_twin(method)]
    assert twins == ["paper-stretch", "mean-stretch"]
    assert jobs["paper"].out == f"{tmp_path}/out/made"
    assert jobs["paper"].pairs == f"{tmp_path}/out/made/pairs.csv"


def test_a_twin_has_a_name_of_its_own(tmp_path):
    taken = ("mean", "mean-stretch=max")
    assert len(evaluation(tmp_path, methods=taken).chosen_methods()) == 2
    with pytest.raises(ConfigurationError, match="mean-stretch is also the name of the stretched twin of mean"):
        evaluation(tmp_path, methods=taken, also_stretch=True).chosen_methods()


def test_every_mode_is_saved_by_clipping_unless_told(tmp_path):
    (method,) = evaluation(tmp_path, methods=("released",)).chosen_methods()
    assert method.settings["output"] == "clip"


def test_a_grid_replaces_the_default_methods_and_their_sheets(tmp_path):
    asked = evaluation(tmp_path, grid=("steps=1,2",))
    assert [method.name for method in asked.chosen_methods()] == ["adaptive_steps-1", "adaptive_steps-2"]
    assert asked.sheets_per_set == 0
    asked = evaluation(tmp_path, grid=("steps=1",), methods=("mean",), sheets=2)
    assert [method.name for method in asked.chosen_methods()] == ["mean", "adaptive_steps-1"]
    assert asked.sheets_per_set == 2


def test_a_part_of_the_pairs_has_a_table_of_its_own(tmp_path):
    assert evaluation(tmp_path, every=5).pairs_uri(DATA_SET) == f"{tmp_path}/out/made/pairs-every-5.csv"


def test_a_wrong_value_names_the_method_and_the_field(tmp_path):
    asked = evaluation(tmp_path, methods=("quick=paper:steps=0",))
    with pytest.raises(ConfigurationError, match=r"methods: quick: steps: .*given: 0"):
        asked.job(DATA_SET, asked.chosen_methods()[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every": 0}, "every: "),
        ({"metrics": ("EN", "beauty")}, "metrics: there is no beauty; allowed are EN"),
        ({"speed": 1}, "speed: "),
        ({"precision": "float8"}, "precision: "),
    ],
)
def test_a_wrong_evaluation_names_the_field(tmp_path, settings, words):
    with pytest.raises(ConfigurationError, match=words):
        evaluation(tmp_path, **settings)


def test_results_inside_the_data_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"out: .* lies inside data"):
        make_evaluation({"data": str(tmp_path), "out": f"{tmp_path}/out"})


def test_too_many_methods_for_letters(tmp_path):
    with pytest.raises(ConfigurationError, match="27 methods for 26 letters"):
        evaluation(tmp_path, grid=(), sheets=1, blind=True).chosen_methods()


def test_the_table_of_pairs_holds_any_name():
    assert pairs_table(DATA_SET).decode() == 'key,first,second\na,/d/ir/a.png,/d/vi/a.png\n"b, ""c""",,/d/vi/b.png\n'
