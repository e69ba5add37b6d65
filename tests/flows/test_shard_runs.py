"""What is read out of the states of shards' flow runs, and a server that does not answer."""

import asyncio
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from flows import shard_runs
from flows.shard_runs import died_of_memory, is_unexplained, may_live


@pytest.mark.parametrize(
    ("message", "of_memory"),
    [
        ("Process exited with status code: -9. This indicates that the process exited due to a SIGKILL signal.", True),
        ("Flow run infrastructure exited with non-zero status code 137.", True),
        ("Flow run encountered an exception: OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", True),
        ("Flow run encountered an exception: MemoryError: ", True),
        ("No active or succeeded pods found for any job", False),
        ("The following containers stopped with a non-zero exit code: ['prefect']", False),
        ("Kubernetes job was deleted", False),
        ("ECS task failed to start: unknown reason. The capacity provider could not place the task.", False),
        ("No heartbeat for three periods.", False),
        ("Process exited with status code: 1. ", False),
        ("Process exited with status code: -15. ", False),
        ("", False),
    ],
)
def test_an_end_for_want_of_memory_is_known_by_its_message(message, of_memory):
    from prefect.states import Completed, Crashed

    assert died_of_memory(Crashed(message=message)) is of_memory
    assert not died_of_memory(Completed(message=message))


@pytest.mark.parametrize(
    ("message", "unexplained"),
    [
        ("No active or succeeded pods found for any job", True),
        ("The following containers stopped with a non-zero exit code: ['prefect']", True),
        ("Process exited with status code: -9. ", False),
        ("Kubernetes job was deleted", False),
        ("", False),
    ],
)
def test_an_end_that_may_have_been_for_want_of_memory_is_known_by_its_message(message, unexplained):
    from prefect.states import Completed, Crashed

    assert is_unexplained(Crashed(message=message)) is unexplained
    assert not is_unexplained(Completed(message=message))


def test_whose_process_may_live_although_its_flow_run_is_over():
    from prefect.states import Cancelled, Completed, Crashed, Failed

    unseen = [
        Crashed(message=shard_runs.SILENT), Crashed(), Cancelled(message="No worker ended it."),
        Cancelled(message="Flow run cancellation timed out; marked this flow run as Cancelled."),
        Cancelled(message="Flow run cancelled (deployment not found, infrastructure may still be running)."),
    ]  # fmt: skip
    assert all(may_live(state) for state in unseen)
    killed = Crashed(message="Process exited with status code: -9. This indicates that the process exited.")
    assert not any(may_live(state) for state in (killed, Completed(), Failed(), Cancelled(message="By its worker.")))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("prefect_kubernetes.observer", 'else "No active or succeeded pods found for any job"'),
        ("prefect_aws.observers.ecs", 'f"The following containers stopped with a non-zero "'),
        ("prefect.runner._flow_run_executor", 'f"Process exited with status code: {exit_code}.'),
        ("prefect.workers.base", '"Flow run infrastructure exited with non-zero status code"'),
        ("prefect.workers.base", "infrastructure may still be running)."),
        ("prefect.server.services.cancellation_cleanup", f'"{shard_runs._TIMED_OUT}"'),
    ],
)
def test_the_workers_and_the_server_say_what_is_looked_for(module, words):
    assert words in Path(find_spec(module).origin).read_text()


class Server:
    def __init__(self, *answers):
        self.answers = list(answers)

    async def ask(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def refusal(status):
    from prefect.exceptions import PrefectHTTPStatusError

    request = httpx.Request("GET", "http://127.0.0.1/api")
    return PrefectHTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def test_a_server_that_is_restarted_is_asked_again(monkeypatch):
    monkeypatch.setattr(shard_runs, "_PAUSE_S", 0.01)
    server = Server(httpx.ConnectError("refused"), refusal(500), httpx.ReadTimeout("slow"), 7)
    assert asyncio.run(shard_runs.patiently(server.ask)) == 7


def test_what_does_not_pass_is_told_at_once(monkeypatch):
    with pytest.raises(httpx.HTTPStatusError):
        asyncio.run(shard_runs.patiently(Server(refusal(422), 7).ask))
    monkeypatch.setattr(shard_runs, "PATIENCE_S", -1.0)
    with pytest.raises(httpx.ConnectError):
        asyncio.run(shard_runs.patiently(Server(httpx.ConnectError("refused"), 7).ask))
