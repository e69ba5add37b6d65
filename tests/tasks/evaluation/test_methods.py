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


@pytest.mark.parametrize("name", ["without-prior", "without-tv", "phi-0.1", "phi-1"])
def test_an_ablation_alone_is_called_by_its_row(name):
    whole = {method.name: method for method in parse_methods(("table2",))}
    assert parse_methods((name,)) == (whole[name],)
    assert parse_methods((name, "table2")) == (whole[name], *(one for one in whole.values() if one.name != name))
    with pytest.raises(ConfigurationError, match=f"{name} stands for two"):
        parse_methods((name, f"{name}=paper:steps=3"))


def test_by_default_every_mode_that_works():
    names = [method.name for method in default_methods()]
    assert names[-4:] == ["mean", "max", "laplacian", "gradient"]
    assert names[:3] == ["adaptive", "paper", "released"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("magic", "no mode 'magic'; allowed are"),
        ("phi-2", "the group table2 and of it without-prior, without-tv, phi-0.1, phi-1"),
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


@pytest.mark.parametrize("axis", ["tv_weight=0.1,1", "phi=0.1,1"])
def test_a_grid_over_what_only_the_papers_rule_uses_is_of_that(axis):
    assert [method.mode for method in parse_grid((axis, "steps=5,10"))] == ["paper"] * 4
    assert [method.mode for method in parse_grid((axis.split(",")[0], "steps=5,10"))] == ["paper"] * 2
    assert [method.mode for method in parse_grid(("penalty=0.1,1",))] == ["adaptive"] * 2


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("mode=adaptive", "tv_weight=0.1,1"), "tv_weight make no difference in adaptive_tv_weight-0.1"),
        (
            ("mode=paper,adaptive", "tv_weight=0.1,1"),
            "tv_weight make no difference in adaptive_tv_weight-0.1",
        ),
        (
            ("mode=mean", "steps=5,10", "seed=0,1"),
            "steps, seed make no difference in mean_steps-5_seed-0",
        ),
        (
            ("use_prior=true,false", "seed=0,1"),
            "seed make no difference in adaptive_use_prior-False_seed-0",
        ),
        (("use_prior=false", "precision=float32,bfloat16"), "precision make no difference"),
    ],
)
def test_a_grid_that_would_fuse_the_same_pictures_twice_is_refused(texts, words):
    with pytest.raises(ConfigurationError, match=f"grid: the values of {words}"):
        parse_grid(texts)


def test_one_value_without_effect_is_no_harm():
    assert len(parse_grid(("mode=paper,adaptive", "tv_weight=0.5"))) == 2


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
