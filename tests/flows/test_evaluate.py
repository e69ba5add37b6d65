"""An evaluation over tiny data sets: rows, tables, sheets, and what a second call does."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.cli import main
from flows.evaluate import run_evaluation
from tasks import chunk
from tasks.codes import ConfigurationError
from tasks.evaluation.evaluation import make_evaluation
from tasks.evaluation.gather import EVALUATION_SCHEMA
from tasks.storage import StorageError
from tests.archives import pictures, write_picture
from tests.runs import SilentWatcher

# No network: what is tested here does not depend on the prior.
EM = "em=paper:use_prior=false,steps=2"


class Watcher(SilentWatcher):
    """Keeps the summaries, and which methods were evaluated."""

    def __init__(self):
        super().__init__()
        self.methods = []

    def evaluating(self, data_set, method):
        self.methods.append((data_set.name, method.name))

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


def evaluate(data, **settings):
    asked = {"data": str(data), "out": str(data.parent / "out"), "methods": (EM, "mean"), "sheets": 0}
    watcher = Watcher()
    return run_evaluation(make_evaluation(asked | settings), watcher), watcher


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
    evaluate(data, sets=("tno",), methods=("paper:steps=2",))
    command = ["fuse", f"{data}/tno/ir", f"{data}/tno/vi", "--out", f"{tmp_path}/plain", "--steps", "2", "--no-prefect"]
    assert main(command) == 0
    assert pictures(tmp_path / "plain/fused/paper") == pictures(tmp_path / "out/tno/fused/paper_steps-2")


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


def test_the_trace_of_a_pair(data):
    evaluate(data, sets=("tno",), methods=("mean", "paper:steps=2"), trace="1")
    with Image.open(data.parent / "out/sheets/tno/1.trace.png") as page:
        assert min(page.size) > 256


def test_a_grid_ends_in_a_plot(data):
    evaluate(data, sets=("tno",), methods=(), every=3, grid=("steps=1,2", "use_prior=false"))
    assert {row["method"] for row in rows(data)} == {"paper_steps-1_use_prior-False", "paper_steps-2_use_prior-False"}
    with Image.open(data.parent / "out/plots/tno.png") as plot:
        assert plot.width > 500


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sets": ("roadscene",)}, "no data set 'roadscene'; found are harvard_mri_ct, tno"),
        ({"methods": ("magic",)}, "no mode 'magic'"),
        ({"methods": ("paper:steps=0",)}, "steps: "),
        ({"prior": "absent.pt"}, "absent.pt"),
        ({"trace": "9", "methods": ("paper",)}, "'9' is no pair of harvard_mri_ct, tno"),
        ({"trace": "0", "methods": ("paper",)}, "write SET/KEY, such as harvard_mri_ct/0, tno/0"),
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
