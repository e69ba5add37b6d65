"""A Prefect server with a log-in: who gets in with it, and who does not."""

import asyncio
import os
import urllib.error

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deployments.set_up import main
from tests import servers
from tests.archives import ddfm, make_archive

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
LOGIN = "ddfm:nobody-guesses-this"


@pytest.fixture(scope="module")
def guarded_api():
    with (
        servers.postgres() as database_url,
        servers.prefect_service(database_url, {"PREFECT_SERVER_API_AUTH_STRING": LOGIN}) as service,
    ):
        yield service.url


async def states_of_runs():
    async with get_client() as client:
        return [run.state_name for run in await client.read_flow_runs()]


def test_only_its_health_is_told_to_everyone(guarded_api):
    assert servers.http_json(f"{guarded_api}/health") is True
    with pytest.raises(urllib.error.HTTPError, match="401"):
        servers.http_json(f"{guarded_api}/work_pools/filter", {})


@pytest.mark.parametrize("login", [None, "ddfm:a-guess"])
def test_setting_up_without_the_log_in(guarded_api, login, capsys):
    with temporary_settings({PREFECT_API_URL: guarded_api, PREFECT_API_AUTH_STRING: login}):
        assert main(["--profile", "process"]) == 2
    assert capsys.readouterr().err.startswith("set_up: PREFECT_API_AUTH_STRING: is not the log-in")


def test_set_up_and_the_command_line_with_the_log_in(guarded_api, tmp_path):
    with temporary_settings({PREFECT_API_URL: guarded_api, PREFECT_API_AUTH_STRING: LOGIN}):
        assert main(["--profile", "process"]) == 0
        root = make_archive(tmp_path, 2)
        environment = os.environ | {"PREFECT_API_URL": guarded_api, "PREFECT_API_AUTH_STRING": LOGIN}
        answer = ddfm("fuse", f"{root}/ir", f"{root}/vi", "--out", f"{root}/out", "--steps", "2", env=environment)
        assert answer.returncode == 0, answer.stderr
        assert asyncio.run(states_of_runs()) == ["Completed"]
