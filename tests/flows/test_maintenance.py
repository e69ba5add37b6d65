"""The commands beside the fusion, as a user gives them."""

import subprocess
import sys
import time

import pytest

from flows.cli import main
from tasks.codes import Code
from tasks.lock import hold
from tests.archives import job_settings, make_archive, pictures, write_picture


@pytest.fixture
def archive(tmp_path):
    """An archive of five pairs that was fused, and its job file."""
    root = make_archive(tmp_path, 5)
    settings = job_settings(root, steps=1)
    (root / "job.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    assert main(["fuse", "--config", f"{root}/job.yaml", "--no-prefect"]) == 0
    return root


def ddfm(archive, command, *options):
    """Exit code of a command on the archive's job."""
    return main([command, "--config", f"{archive}/job.yaml", *options])


def rows(archive):
    import pandas

    table = pandas.read_parquet(archive / "out/_ddfm/metrics/current")
    return {row.pair_key: row for row in table.itertuples()}


def test_index_shows_the_plan_and_its_time_and_writes_nothing(archive, capsys):
    write_picture(archive / "vi/001.png", 77, colour=True)
    for side in ("ir", "vi"):
        write_picture(archive / side / "new.png", 5)
        (archive / side / "002.png").unlink()
    write_picture(archive / "ir/alone.png", 5)
    before = pictures(archive / "out")
    assert ddfm(archive, "index") == 0
    told = capsys.readouterr().out
    for line in ("1  new ", "1  changed", "1  unpaired", "1  vanished", "3  settled"):
        assert line in told, told
    assert "2 pairs to fuse, about " in told
    assert "at the rate of the last runs; 1 rows to write with a code" in told
    assert "alone  no_partner" in told
    assert pictures(archive / "out") == before


def test_index_with_a_selection(archive, capsys):
    assert ddfm(archive, "index", "--seed", "5", "--only", "00[12]", "--limit", "1") == 0
    told = capsys.readouterr().out
    assert "1  outdated" in told
    assert "4  left out" in told


def test_verify_finds_what_is_broken_and_repair_mends_it(archive, capsys):
    folder = archive / "out/fused/adaptive"
    assert main(["verify", f"{archive}/out", "--deep"]) == 0
    assert "5 pictures, 5 of them compared" in capsys.readouterr().out
    expected = pictures(folder)
    (folder / "001.png").unlink()
    (folder / "003.png").write_bytes(b"damaged")
    (folder / "strange.png").write_bytes(b"?")
    assert main(["verify", f"{archive}/out"]) == 1
    told = capsys.readouterr().out
    assert "missing_output" in told
    assert "different_output" not in told
    assert main(["verify", f"{archive}/out", "--deep", "--repair"]) == 1
    told = capsys.readouterr().out
    assert "1 missing_output" in told
    assert "1 different_output" in told
    assert "1 strange_output" in told
    assert "planned for 2 pairs of adaptive" in told
    assert ddfm(archive, "fuse", "--no-prefect") == 0
    (folder / "strange.png").unlink()
    assert pictures(folder) == expected
    assert ddfm(archive, "verify", "--deep") == 0


def test_prune_lists_first_and_removes_on_request(archive, capsys):
    for side in ("ir", "vi"):
        (archive / side / "002.png").unlink()
    assert ddfm(archive, "prune") == 0
    assert "1 of 5 pairs of adaptive have no sources any more" in capsys.readouterr().out
    assert (archive / "out/fused/adaptive/002.png").exists()
    assert ddfm(archive, "prune", "--yes") == 0
    assert not (archive / "out/fused/adaptive/002.png").exists()
    assert (rows(archive)["002"].status, rows(archive)["002"].code) == ("skipped", Code.VANISHED)
    assert ddfm(archive, "prune") == 0
    assert "0 of 4" in capsys.readouterr().out
    assert main(["verify", f"{archive}/out", "--deep"]) == 0
    make_archive(archive, 5)
    assert ddfm(archive, "fuse", "--no-prefect") == 0
    assert rows(archive)["002"].status == "ok"


def test_prune_refuses_an_archive_that_is_not_mounted(archive, capsys):
    for number in range(4):
        for side in ("ir", "vi"):
            (archive / f"{side}/{number:03}.png").unlink()
    assert ddfm(archive, "prune", "--yes") == 2
    assert "4 of 5 pairs are gone" in capsys.readouterr().err
    assert ddfm(archive, "prune", "--yes", "--most-share", "0.9") == 0


def test_a_second_run_refuses_and_names_the_first(archive, capsys):
    write_picture(archive / "vi/001.png", 77, colour=True)
    with hold(f"{archive}/out"):
        assert ddfm(archive, "fuse", "--no-prefect") == 3
    told = capsys.readouterr().err
    assert "has been writing there since" in told
    assert "--wait" in told
    assert ddfm(archive, "fuse", "--no-prefect") == 0


def test_a_second_run_waits_on_request(archive):
    write_picture(archive / "vi/001.png", 77, colour=True)
    command = ["fuse", "--config", f"{archive}/job.yaml", "--no-prefect", "--wait"]
    with hold(f"{archive}/out"):
        process = subprocess.Popen([sys.executable, "-m", "flows.cli", *command], stdout=subprocess.PIPE, text=True)
        time.sleep(5)
        assert process.poll() is None
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "1 pairs: 1 ok" in told


def test_the_rows_have_the_token_of_their_lock(archive):
    write_picture(archive / "vi/001.png", 77, colour=True)
    assert ddfm(archive, "fuse", "--no-prefect") == 0
    tokens = {key: row.lock_token for key, row in rows(archive).items()}
    assert tokens == {"000": 1, "001": 2, "002": 1, "003": 1, "004": 1}


def test_prune_takes_no_selection(archive, capsys):
    with pytest.raises(SystemExit):
        ddfm(archive, "prune", "--only", "000", "--yes")
    assert "unrecognized arguments" in capsys.readouterr().err


def test_a_url_with_a_password_is_refused_and_not_repeated(archive, capsys):
    assert ddfm(archive, "index", "--out", "sftp://user:hush@host/out") == 2
    told = capsys.readouterr().err
    assert "out: a URL must not hold credentials" in told
    assert "hush" not in told


def test_a_destination_is_given_once(tmp_path, capsys):
    assert main(["verify"]) == 2
    assert "give either a destination or --config" in capsys.readouterr().err
