"""An evaluation over tiny data sets: rows, tables, sheets, and what a second call does."""

import json
from collections import defaultdict
from contextlib import nullcontext

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.cli import main
from flows.evaluate import no_check, run_evaluation
from flows.prefect_flows import LogEvaluationWatcher
from tasks import chunk
from tasks.codes import Code, ConfigurationError, PairError
from tasks.evaluation import stretched
from tasks.evaluation.evaluation import make_evaluation
from tasks.evaluation.gather import EVALUATION_SCHEMA
from tasks.storage import StorageError
from tests.archives import pictures, write_picture
from tests.runs import SilentWatcher

# No network: what is tested here does not depend on the prior.
EM = "em=paper:use_prior=false,steps=2"


class Watcher(SilentWatcher):
    """Keeps the summaries, which methods were evaluated, and which stretched pictures measured."""

    def __init__(self):
        super().__init__()
        self.methods = []
        self.pictures = defaultdict(list)
        self.twins = {}

    def evaluating(self, data_set, method):
        self.methods.append((data_set.name, method.name))

    def measuring(self, twin):
        return nullcontext(self.pictures[twin.data_set.name, twin.name].append)

    def measured(self, rows):
        for row in rows.to_pylist():
            self.twins.setdefault((row["set"], row["method"]), []).append(row["pair_key"])

    def evaluated(self, outcome):
        self.outcome = outcome


@pytest.fixture
def data(tmp_path):
    """Three pairs of TNO and two of MRI-CT."""
    for number in range(3):
        write_picture(tmp_path / "data/tno/ir" / f"{number}.png", 2 * number)
        write_picture(tmp_path / "data/tno/vi" / f"{number}.png", 2 * number + 1, colour=True)
    for number in range(2):
        write_picture(tmp_path / "data/harvard_mri_ct/ct" / f"{number}.png", 10 + number)
        write_picture(tmp_path / "data/harvard_mri_ct/mri" / f"{number}.png", 20 + number)
    return tmp_path / "data"


def evaluate(data, check=no_check, **settings):
    asked = {"data": str(data), "out": str(data.parent / "out"), "methods": (EM, "mean"), "sheets": 0}
    watcher = Watcher()
    return run_evaluation(make_evaluation(asked | settings), watcher, check=check), watcher


def rows(data):
    return pq.read_table(data.parent / "out/evaluation.parquet").to_pylist()


def test_every_pair_of_every_set_and_method_has_a_row(data):
    outcome, watcher = evaluate(data)
    out = data.parent / "out"
    assert (outcome.clean, outcome.failed, dict(outcome.statuses)) == (True, False, {"ok": 10})
    assert watcher.methods == [
        ("harvard_mri_ct", "em"), ("harvard_mri_ct", "mean"), ("tno", "em"), ("tno", "mean"),
    ]  # fmt: skip
    table = pq.read_table(out / "evaluation.parquet")
    assert table.schema.equals(EVALUATION_SCHEMA, check_metadata=True)
    first = table.to_pylist()[0]
    assert (first["set"], first["method"], first["mode"], first["steps"]) == ("harvard_mri_ct", "em", "paper", 2)
    assert (first["use_prior"], first["prior"]) == (False, None)
    baseline = next(row for row in table.to_pylist() if row["method"] == "mean")
    assert (baseline["steps"], baseline["seed"], baseline["output"]) == (None, None, "clip")
    # The figures are those of the rows of the ordinary runs, and the pictures those of `ddfm fuse`.
    tno = [row for row in table.to_pylist() if (row["set"], row["method"]) == ("tno", "mean")]
    current = pq.read_table(out / "tno/_ddfm/metrics/current/mean.parquet").to_pylist()
    assert [(row["pair_key"], row["EN"]) for row in tno] == [(row["pair_key"], row["EN"]) for row in current]
    text = (out / "tables.md").read_text()
    assert "## tno (TNO, 3 pairs)" in text
    mean_of_rows = np.mean([row["EN"] for row in tno])
    assert f"| `mean` | {mean_of_rows:.3f}" in text.replace("**", "")


def test_pictures_are_those_of_an_ordinary_fusion(data, tmp_path):
    evaluate(data, sets=("tno",), methods=("adaptive:steps=2",))
    command = ["fuse", f"{data}/tno/ir", f"{data}/tno/vi", "--out", f"{tmp_path}/plain", "--steps", "2", "--no-prefect"]
    assert main(command) == 0
    assert pictures(tmp_path / "plain/fused/adaptive") == pictures(tmp_path / "out/tno/fused/adaptive_steps-2")


def test_a_second_call_fuses_nothing_and_more_pairs_only_those(data):
    evaluate(data, every=2)
    assert len(rows(data)) == 6
    outcome, watcher = evaluate(data, every=2)
    assert watcher.summaries == []
    assert outcome.clean
    _, watcher = evaluate(data, methods=(EM, "mean", "max"))
    assert [summary.reconciliation.pairs for summary in watcher.summaries] == [1, 1, 2, 1, 1, 3]
    assert len(rows(data)) == 15
    _, watcher = evaluate(data, every=2)
    assert watcher.summaries == []
    assert len(rows(data)) == 6


def test_an_interrupted_evaluation_goes_on_where_it_was(data, monkeypatch):
    right, calls = chunk.commit_chunk, []

    def refusing(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise StorageError("out", "the disk is full", "make room")
        right(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(chunk, "commit_chunk", refusing)
        with pytest.raises(StorageError, match="the disk is full"):
            evaluate(data)
    outcome, watcher = evaluate(data)
    assert [(summary.resumed, summary.settings.job.method_name) for summary in watcher.summaries] == [
        (True, "em"), (False, "mean"),
    ]  # fmt: skip
    assert dict(outcome.statuses) == {"ok": 10}


def test_a_bad_pair_is_a_row_and_stops_nothing(data, capsys):
    (data / "tno/vi/1.png").write_bytes(b"no picture")
    (data / "tno/vi/2.png").unlink()
    command = ["evaluate", str(data), "--out", f"{data.parent}/out", "--methods", "mean", "max", "--no-prefect"]
    assert main([*command, "--sheets", "2"]) == 1
    told = capsys.readouterr().out
    assert "4 rejected" in told
    assert "decode_failed" in told
    assert "missing_source" in told
    codes = {(row["set"], row["pair_key"]): row["code"] for row in rows(data) if row["method"] == "mean"}
    assert codes == {
        ("harvard_mri_ct", "0"): None, ("harvard_mri_ct", "1"): None,
        ("tno", "0"): None, ("tno", "1"): "decode_failed", ("tno", "2"): "missing_source",
    }  # fmt: skip
    assert "| 1/3 |" in (data.parent / "out/tables.md").read_text()
    assert [path.name for path in (data.parent / "out/sheets/tno").iterdir()] == ["0.png"]


def test_sheets_hide_the_methods_behind_letters(data):
    sheets = data.parent / "out/sheets"
    evaluate(data, sets=("tno",), methods=("mean", "max", "laplacian"), sheets=2, also_stretch=True)
    assert sorted(path.name for path in (sheets / "tno").iterdir()) == ["0.png", "2.png"]
    named = (sheets / "tno/0.png").read_bytes()
    outcome, _ = evaluate(data, sets=("tno",), methods=("mean", "max", "laplacian"), sheets=2, blind=True)
    key = json.loads((sheets / "key.json").read_text())
    assert key.keys() == {"tno/0", "tno/2"}
    assert sorted(key["tno/0"]) == ["A", "B", "C"]
    assert set(key["tno/0"].values()) == {"mean", "max", "laplacian"}
    assert (sheets / "tno/0.png").read_bytes() != named
    assert str(sheets / "key.json") in outcome.files


def test_a_damaged_picture_costs_only_its_sheet(data, capsys):
    evaluate(data, sets=("tno",), methods=("mean", "max"))
    (data.parent / "out/tno/fused/max/1.png").write_bytes(b"no picture")
    (data.parent / "out/evaluation.parquet").unlink()
    (data.parent / "out/tables.md").unlink()
    command = ["evaluate", str(data), "--out", f"{data.parent}/out", "--sets", "tno", "--methods", "mean", "max"]
    assert main([*command, "--no-prefect", "--blind"]) == 1
    told = capsys.readouterr().out
    assert "left out: the sheet of tno/1: " in told
    assert "verify --deep --repair" in told
    assert "6 rows: 6 ok; sheets left out: 1" in told
    assert len(rows(data)) == 6
    assert (data.parent / "out/tables.md").exists()
    assert sorted(path.name for path in (data.parent / "out/sheets/tno").iterdir()) == ["0.png", "2.png"]
    assert json.loads((data.parent / "out/sheets/key.json").read_text()).keys() == {"tno/0", "tno/2"}


def test_letters_are_those_of_the_sheets_that_lie_there(data):
    sheets = data.parent / "out/sheets"
    evaluate(data, sets=("tno",), methods=("mean", "max"), sheets=3, blind=True)
    before = json.loads((sheets / "key.json").read_text())
    (data.parent / "out/tno/fused/max/0.png").write_bytes(b"no picture")
    evaluate(data, sets=("tno",), methods=("mean", "max"), sheets=1, blind=True)
    assert sorted(path.name for path in (sheets / "tno").iterdir()) == ["1.png", "2.png"]
    assert json.loads((sheets / "key.json").read_text()) == {name: before[name] for name in ("tno/1", "tno/2")}
    evaluate(data, sets=("tno",), methods=("mean",), sheets=3)
    assert sorted(path.name for path in (sheets / "tno").iterdir()) == ["0.png", "1.png", "2.png"]
    assert not (sheets / "key.json").exists()


def test_a_flow_logs_what_was_left_out(data, caplog):
    evaluate(data, sets=("tno",), methods=("mean",))
    for picture in (data.parent / "out/tno/fused/mean").iterdir():
        write_picture(picture, 50)
    outcome, _ = evaluate(data, sets=("tno",), methods=("mean",), sheets=4)
    assert (outcome.clean, len(outcome.left_out)) == (False, 3)
    assert outcome.files == tuple(str(data.parent / "out" / name) for name in ("evaluation.parquet", "tables.md"))
    with caplog.at_level("WARNING"):
        LogEvaluationWatcher().evaluated(outcome)
    assert [record.message.split(":")[1] for record in caplog.records] == [
        f" the sheet of tno/{number}" for number in range(3)
    ]


def test_a_traced_pair_that_cannot_be_read_is_said(data):
    (data / "tno/vi/1.png").write_bytes(b"no picture")
    outcome, _ = evaluate(data, sets=("tno",), methods=("adaptive:steps=1",), trace="1")
    assert len(rows(data)) == 3
    assert [sentence.split(":")[0] for sentence in outcome.left_out] == ["the trace of tno/1"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("a bad shape")])
def test_a_trace_that_fails_costs_only_itself(data, monkeypatch, error):
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tasks.evaluation.pictures.fuse", failing)
    outcome, _ = evaluate(data, sets=("tno",), methods=("adaptive:steps=1",), trace="1")
    assert outcome.left_out == (
        f"the trace of tno/1: {PairError(Code.FUSION_FAILED, f'{type(error).__name__}: {error}')}",
    )
    assert len(rows(data)) == 3


def test_a_pair_without_a_partner_cannot_be_traced(data):
    (data / "tno/vi/2.png").unlink()
    with pytest.raises(ConfigurationError, match="trace: tno/2 has no second source"):
        evaluate(data, methods=("adaptive",), trace="tno/2")
    assert not (data.parent / "out").exists()


def test_tables_say_how_pictures_were_saved(data):
    def told(**settings):
        evaluate(data, sets=("tno",), methods=("mean", "own=max:output=stretch"), **settings)
        return (data.parent / "out/tables.md").read_text()

    assert "Pictures are saved by clipping, but those of `own` are stretched" in told()
    assert "clipping" not in told(output="stretch")


def method_rows(data, method):
    return [row for row in rows(data) if row["method"] == method]


def test_a_stretched_twin_measures_the_published_pictures(data):
    stretching = "own=max:output=stretch"
    outcome, watcher = evaluate(data, methods=("max", stretching), also_stretch=True)
    assert dict(outcome.statuses) == {"ok": 15}
    assert [method for _, method in watcher.methods] == ["max", "own"] * 2
    names = [("harvard_mri_ct", "max-stretch"), ("tno", "max-stretch")]
    assert watcher.twins == dict(zip(names, (["0", "1"], ["0", "1", "2"]), strict=True))
    assert watcher.pictures == dict(zip(names, ([1, 1], [1, 1, 1]), strict=True))
    assert list(dict.fromkeys(row["method"] for row in rows(data))) == ["max", "max-stretch", "own"]
    assert sorted(path.name for path in (data.parent / "out/tno/fused").iterdir()) == ["max", "own"]
    assert "| `max-stretch` |" in (data.parent / "out/tables.md").read_text().replace("**", "")

    base, twin, own = (method_rows(data, name) for name in ("max", "max-stretch", "own"))
    others = EVALUATION_SCHEMA.names[: EVALUATION_SCHEMA.names.index("EN")]
    for one, other in zip(base, twin, strict=True):
        expected = {name: one[name] for name in others} | {"method": "max-stretch"}
        assert {name: other[name] for name in others} == expected
    assert all(other["SD"] > one["SD"] + 1 for one, other in zip(base, twin, strict=True))
    # The maximum of grey pictures has whole levels, so that it does not matter whether it is rounded before.
    for other, fused in zip(twin[:2], own[:2], strict=True):
        assert (other["set"], other["EN"]) == ("harvard_mri_ct", pytest.approx(fused["EN"]))
        assert [other[name] for name in ("SD", "MI", "Qabf", "SSIM")] == pytest.approx(
            [fused[name] for name in ("SD", "MI", "Qabf", "SSIM")]
        )


def test_only_pictures_that_are_new_or_changed_are_measured_again(data):
    def measured(**settings):
        _, watcher = evaluate(data, sets=("tno",), methods=("max",), also_stretch=True, **settings)
        return watcher.twins.get(("tno", "max-stretch"), [])

    assert measured(every=2) == ["0", "2"]
    assert measured() == ["1"]
    before = method_rows(data, "max-stretch")
    assert measured() == measured(every=2) == []
    # A darker corner in the visible picture, below the maximum: the fused picture stays, its figures do not.
    levels = np.asarray(Image.open(data / "tno/vi/0.png")).copy()
    infrared = np.asarray(Image.open(data / "tno/ir/0.png"))
    place = np.unravel_index(np.argmax(infrared.astype(int) - levels.max(axis=2)), infrared.shape)
    levels[place] = 0
    Image.fromarray(levels).save(data / "tno/vi/0.png")
    write_picture(data / "tno/ir/1.png", 99)
    assert measured() == ["0", "1"]
    after = method_rows(data, "max-stretch")
    assert [one["MI"] == other["MI"] for one, other in zip(before, after, strict=True)] == [False, False, True]


def test_what_was_measured_before_a_stop_is_kept(data, monkeypatch):
    monkeypatch.setattr(stretched, "_KEPT_TOGETHER", 1)
    right, calls = stretched.measure, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise StorageError("out", "is out of reach", "wait")
        return right(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stretched, "measure", stopping)
        with pytest.raises(StorageError):
            evaluate(data, sets=("tno",), methods=("max",), also_stretch=True)
    _, watcher = evaluate(data, sets=("tno",), methods=("max",), also_stretch=True)
    assert watcher.twins == {("tno", "max-stretch"): ["2"]}


def test_a_picture_that_cannot_be_measured_is_a_row(data, capsys):
    (data / "tno/vi/2.png").write_bytes(b"no picture")
    evaluate(data, sets=("tno",), methods=("max",))
    write_picture(data.parent / "out/tno/fused/max/0.png", 50)
    command = ["evaluate", str(data), "--out", f"{data.parent}/out", "--sets", "tno", "--methods", "max"]
    command += ["--also-stretch", "--sheets", "0", "--no-prefect"]
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "2 of 2 pictures to measure" in told
    assert "2 pictures: 1 failed, 1 ok" in told
    assert "verify --deep --repair" in told
    twins = method_rows(data, "max-stretch")
    assert [row["code"] for row in twins] == ["read_failed", None, "decode_failed"]
    assert [row["EN"] is None for row in twins] == [True, False, True]
    # The advice of the row helps.
    assert main(["verify", f"{data.parent}/out/tno", "--deep", "--repair"]) == 1
    assert main(command) == 1
    assert [row["code"] for row in method_rows(data, "max-stretch")] == [None, None, "decode_failed"]


def test_the_trace_of_a_pair(data):
    evaluate(data, sets=("tno",), methods=("mean", "adaptive:steps=2"), trace="1")
    with Image.open(data.parent / "out/sheets/tno/1.trace.png") as page:
        assert min(page.size) > 256


def test_a_grid_ends_in_a_plot(data):
    evaluate(data, sets=("tno",), methods=(), every=3, grid=("steps=1,2", "use_prior=false"))
    names = {f"adaptive_steps-{steps}_use_prior-False" for steps in (1, 2)}
    assert {row["method"] for row in rows(data)} == names
    with Image.open(data.parent / "out/plots/tno.png") as plot:
        assert plot.width > 500


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sets": ("roadscene",)}, "no data set 'roadscene'; found are harvard_mri_ct, tno"),
        ({"methods": ("magic",)}, "no mode 'magic'"),
        ({"methods": ("adaptive:steps=0",)}, "steps: "),
        ({"prior": "absent.pt", "methods": ("adaptive",)}, "absent.pt"),
        ({"trace": "9", "methods": ("adaptive",)}, "'9' is no pair of harvard_mri_ct, tno"),
        ({"trace": "0", "methods": ("adaptive",)}, "write SET/KEY, such as harvard_mri_ct/0, tno/0"),
        ({"trace": "tno/0", "methods": ("mean",)}, "none of the methods has diffusion steps"),
    ],
)
def test_what_cannot_work_stops_before_anything_is_written(data, settings, words):
    with pytest.raises(ConfigurationError) as error:
        evaluate(data, **settings)
    assert words in str(error.value)
    assert not (data.parent / "out").exists()


def test_an_unknown_layout_ends_with_2(tmp_path, capsys):
    write_picture(tmp_path / "data/left/a.png", 1)
    assert main(["evaluate", f"{tmp_path}/data", "--out", f"{tmp_path}/out", "--no-prefect"]) == 2
    assert "looked for folders named ir" in capsys.readouterr().err
