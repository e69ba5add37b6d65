"""Pairs that kill their process: found, isolated, marked; all others are fused with the bytes of a calm run."""

import signal
import subprocess
import sys

import pytest

from tasks.codes import Code
from tasks.current import current_rows
from tests.archives import job_settings, make_archive, pictures

# Runs a job in a process that dies as a fault in a native library would, at the pair whose first picture is flat.
DRIVER = """
import json, os, signal, sys
import numpy as np, tasks.fuse, tasks.image_pair
from flows.fuse_archive import run_archive
from flows.terminal import TerminalWatcher, make_console
from tasks.job_file import make_job

def die_at_flat(is_flat, function):
    def poisoned(*arguments, **options):
        if is_flat(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return poisoned

if sys.argv[1] == "decoder":
    right = tasks.image_pair.read_raster
    def poisoned(content, **options):
        image = right(content, **options)
        if image.pixels.std() == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return image
    tasks.image_pair.read_raster = poisoned
elif sys.argv[1] == "network":
    flat = lambda first, *_: bool((first.flatten(1).amax(1) == first.flatten(1).amin(1)).any())
    tasks.fuse.fuse = die_at_flat(flat, tasks.fuse.fuse)
run_archive(make_job(json.loads(sys.argv[2])), TerminalWatcher(make_console()))
"""


def run(poison, settings):
    import json

    command = [sys.executable, "-c", DRIVER, poison, json.dumps(settings)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(("poison", "deaths"), [("decoder", 2), ("network", 3)])
def test_a_pair_that_kills_its_process_is_isolated(tmp_path, poison, deaths):
    import numpy as np
    from PIL import Image

    root = make_archive(tmp_path, 8)
    settings = job_settings(root, chunk_pairs=4, batch=2, steps=1)
    Image.fromarray(np.full((32, 32), 9, np.uint8)).save(root / "ir/002.png")
    calm = run("nothing", settings | {"out": f"{root}/calm"})
    assert calm.returncode == 0, calm.stderr
    for _ in range(deaths):
        died = run(poison, settings)
        assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
    # The other chunk was not held up by the one that kills.
    survived = run(poison, settings)
    assert survived.returncode == 0, survived.stdout + survived.stderr
    rows = {row["pair_key"]: row for row in current_rows(settings["out"], columns=None).to_pylist()}
    assert {key: row["code"] for key, row in rows.items()} == {
        f"{number:03}": Code.PROCESS_DIED if number == 2 else None for number in range(8)
    }
    assert f"{deaths} times" in rows["002"]["message"]
    expected = pictures(root / "calm/fused/adaptive")
    del expected["002.png"]
    found = pictures(root / "out/fused/adaptive")
    # Without the poison its batch is smaller by one, which may move its partner's last bits.
    assert {key for key in expected if found[key] != expected[key]} <= {"003.png"}
    assert found.keys() == expected.keys()
    # The next run tries it once more, alone: one death is enough then, and nothing else is hurt.
    assert run(poison, settings).returncode == -signal.SIGKILL
    again = run(poison, settings)
    assert again.returncode == 0, again.stdout + again.stderr
    rows = {row["pair_key"]: row for row in current_rows(settings["out"], columns=None).to_pylist()}
    assert (rows["002"]["code"], rows["002"]["attempt"]) == (Code.PROCESS_DIED, 2)
    # It was not to blame: without what kills, it is fused.
    assert run("nothing", settings).returncode == 0
    assert pictures(root / "out/fused/adaptive") == pictures(root / "calm/fused/adaptive")
