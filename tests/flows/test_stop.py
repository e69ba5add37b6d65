"""A run that is cancelled ends in an orderly way."""

import asyncio
import signal
import subprocess
import sys
import threading
import time

import pytest

from flows.stop import CheckedProgress, RunStoppedError, StopSignal, in_thread
from tests.archives import ddfm, job_settings, make_archive, pictures


def test_a_signal_that_was_not_set_lets_go_on():
    stop = StopSignal()
    stop.check()
    stop.set()
    with pytest.raises(RunStoppedError):
        stop.check()


def test_progress_is_passed_on_before_the_check():
    told = []

    class Listener:
        def fused(self, pairs):
            told.append(("fused", pairs))

        def committed(self, rows):
            told.append(("committed", rows))

        def waiting(self, read, publish):
            told.append(("waiting", read, publish))

    stop = StopSignal()
    progress = CheckedProgress(Listener(), stop.check)
    progress.committed([])
    progress.waiting(1, 2)
    stop.set()
    with pytest.raises(RunStoppedError):
        progress.fused(3)
    assert told == [("committed", []), ("waiting", 1, 2), ("fused", 3)]


def test_a_cancelled_flow_sees_its_thread_to_the_end():
    stop, ended = StopSignal(), threading.Event()

    def work():
        while True:
            time.sleep(0.01)
            try:
                stop.check()
            except RunStoppedError:
                time.sleep(0.05)
                ended.set()
                raise

    async def flow():
        task = asyncio.ensure_future(in_thread(stop, work))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return ended.is_set()

    assert asyncio.run(flow())


def test_what_a_thread_returns_or_raises_comes_through():
    assert asyncio.run(in_thread(StopSignal(), lambda: 5)) == 5
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(StopSignal(), lambda: 1 / 0))


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_leaves_nothing_half_done(tmp_path, order):
    root = make_archive(tmp_path, 12)
    job = tmp_path / "job.yaml"
    settings = job_settings(root, steps=20, batch=2)
    job.write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    command = ["fuse", "--config", str(job), "--no-prefect"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    runs = root / "out/_ddfm/runs"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(runs.glob("*/results/*.parquet")):
        time.sleep(0.01)
    process.send_signal(order)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in told
    assert not list(runs.glob("*/attempts/*"))
    assert not list(root.rglob("*.tmp"))
    done = pictures(root / "out/fused")
    assert 0 < len(done) < 12
    again = ddfm(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resuming" in again.stdout
    assert len(pictures(root / "out/fused")) == 12
