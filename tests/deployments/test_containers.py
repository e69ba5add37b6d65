"""The compose files, the Kubernetes manifests and the Dockerfile, against what they are read by and what they name."""

import importlib
import json
import re
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from prefect.settings import Settings
from prefect_kubernetes.settings import KubernetesSettings
from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
from prefect_redis.client import RedisMessagingSettings

from deployments.health import main as health
from deployments.job_templates import USER
from deployments.work_pools import POOLS

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deployments"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
POOL_NAMES = {pool.name for pool in POOLS}


def compose(name):
    document = yaml.safe_load((FOLDER / name).read_text())
    return document, PyCompose.from_yaml(yaml.safe_dump(document))


def environments(name):
    """By service, what it is given in the environment."""
    document, _ = compose(name)
    return {service: settings.get("environment", {}) for service, settings in document["services"].items()}


def manifests():
    return list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))


def pools_of(command):
    return {command[index + 1] for index, word in enumerate(command) if word == "--pool"}


@pytest.mark.parametrize("name", ["compose.yaml", "compose.redis.yaml"])
def test_compose_files_follow_the_specification(name):
    _, parsed = compose(name)
    assert "server" in parsed.service_names()


def test_compose_workers_serve_pools_that_set_up_makes():
    document, _ = compose("compose.yaml")
    named = [pools_of(service.get("command", [])) for service in document["services"].values()]
    assert set().union(*named) <= POOL_NAMES
    images = re.findall(r'^CMD \["prefect", .*"--pool", "(\w+)"', DOCKERFILE, re.MULTILINE)
    assert set(images) == {"cpu", "gpu"}


def test_the_logs_of_containers_do_not_fill_the_machine():
    services = [
        service for name in ("compose.yaml", "compose.redis.yaml") for service in compose(name)[0]["services"].items()
    ]
    unlimited = {name for name, service in services if service.get("logging") != {"driver": "local"}}
    # What stands of the server in the second file comes on top of the first.
    assert unlimited == {"server"}
    assert compose("compose.yaml")[0]["services"]["server"]["logging"] == {"driver": "local"}


def test_who_sends_notifications_knows_what_they_link_to():
    assert environments("compose.yaml")["server"]["PREFECT_UI_URL"] == "${UI_URL:-http://localhost:4200}"
    assert "UI_URL=http://localhost:4200\n" in (FOLDER / "compose.env.example").read_text().splitlines(keepends=True)


def test_the_store_of_compose_has_the_bucket_of_the_deployments_and_is_reached_from_its_machine():
    services = compose("compose.yaml")[0]["services"]
    store, bucket = services["s3"], services["s3-bucket"]
    assert store["ports"] == ["127.0.0.1:9000:9000"]
    assert "healthcheck" in store
    assert bucket["profiles"] == store["profiles"] == ["s3"]
    assert bucket["depends_on"] == {"s3": {"condition": "service_healthy"}}
    job = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["definitions"]["job"]
    buckets = {job[place].removeprefix("s3://").partition("/")[0] for place in ("first", "second", "out")}
    (command,) = bucket["command"]
    assert buckets == {command.rpartition("store/")[2]}


def test_compose_says_no_secret():
    text = (FOLDER / "compose.yaml").read_text() + (FOLDER / "compose.redis.yaml").read_text()
    for name in (
        "POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MINIO_ROOT_PASSWORD", "DDFM_PSEUDONYM_SECRET",
        "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING",
    ):  # fmt: skip
        assert re.findall(rf"{name}: (.*)", text), name
        assert all(value.startswith("${") for value in re.findall(rf"{name}: (.*)", text)), name
    example = (FOLDER / "compose.env.example").read_text()
    for name in set(re.findall(r"\$\{(\w+):\?", text)):
        assert f"{name}=\n" in example


def test_compose_gives_the_log_in_to_the_server_and_to_all_who_ask_it():
    login = "${API_AUTH_STRING:?set it in deployments/.env}"
    given = environments("compose.yaml")
    assert given["server"]["PREFECT_SERVER_API_AUTH_STRING"] == login
    clients = {service for service, environment in given.items() if "PREFECT_API_URL" in environment}
    assert clients == {"set-up", "orchestration-worker", "cpu-worker", "gpu-worker"}
    assert all(given[service]["PREFECT_API_AUTH_STRING"] == login for service in clients)


def test_the_services_behind_redis_have_the_settings_of_the_server():
    alone, several = environments("compose.yaml"), environments("compose.redis.yaml")
    server = alone["server"] | several["server"]
    of_pages = {name for name in server if name.startswith("PREFECT_SERVER_UI_")}
    assert several["services"] == {name: value for name, value in server.items() if name not in of_pages}


def test_prefect_knows_the_settings_of_the_compose_files(monkeypatch):
    given = {
        name: value
        for file in ("compose.yaml", "compose.redis.yaml")
        for environment in environments(file).values()
        for name, value in environment.items()
        if name.startswith("PREFECT_")
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    known = Settings().to_environment_variables(exclude_unset=True)
    assert {name for name in given if name not in known} == {
        "PREFECT_REDIS_MESSAGING_HOST",
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_HOST",
    }
    assert RedisMessagingSettings().host == RedisWorkerCleanupQueueSettings().host == "redis"
    modules = [value for value in given.values() if value.startswith("prefect_redis.")]
    assert len(modules) == 5
    for module in modules:
        importlib.import_module(module)


@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["kind"])
def test_kubernetes_takes_the_manifests(manifest):
    kubernetes_validate.validate(manifest, "1.30", strict=True)


def test_kubernetes_workers_serve_pools_that_set_up_makes():
    (deployment,) = [manifest for manifest in manifests() if manifest["kind"] == "Deployment"]
    containers = deployment["spec"]["template"]["spec"]["containers"]
    assert set().union(*(pools_of(container["command"]) for container in containers)) <= POOL_NAMES


def test_kubernetes_workers_take_the_log_in_from_a_secret_and_hand_on_its_name(monkeypatch):
    (deployment,) = [manifest for manifest in manifests() if manifest["kind"] == "Deployment"]
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        given = {entry["name"]: entry for entry in container["env"]}
        reference = given["PREFECT_API_AUTH_STRING"]["valueFrom"]["secretKeyRef"]
        for entry in container["env"]:
            if "value" in entry:
                monkeypatch.setenv(entry["name"], entry["value"])
        worker = KubernetesSettings().worker
        handed_on = (worker.api_auth_string_secret_name, worker.api_auth_string_secret_key)
        assert handed_on == (reference["name"], reference["key"])


def test_workers_are_stopped_by_sigint_and_flow_runs_by_sigterm():
    """A runtime sends the signal of the image to the pods of flow runs, too, and these are put off by SIGTERM alone."""
    for dockerfile in FOLDER.glob("Dockerfile*"):
        assert not re.search(r"^\s*STOPSIGNAL", dockerfile.read_text(), re.MULTILINE | re.IGNORECASE)
    services = compose("compose.yaml")[0]["services"]
    stopped = {name: service.get("stop_signal") for name, service in services.items() if "worker" in name}
    assert stopped == dict.fromkeys(("orchestration-worker", "cpu-worker", "gpu-worker"), "SIGINT")


def test_the_images_check_their_health_without_a_gpu_that_a_shard_may_hold():
    checks = [json.loads(command) for command in re.findall(r"^HEALTHCHECK .* CMD (\[.*\])", DOCKERFILE, re.MULTILINE)]
    assert [command[3:] for command in checks] == [["--device", "cpu"], ["--beside-gpu"]]
    assert all(command[:3] == ["python", "-m", health.__module__] for command in checks)


def test_the_image_holds_every_package_and_no_more():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {package.partition(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]
    }
    assert packages <= copied
    assert all((REPOSITORY / source).exists() for source in copied)
    allowed = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert allowed == copied


def test_the_image_runs_as_the_user_that_the_templates_name():
    assert f"--uid {USER} " in DOCKERFILE
    assert f"USER {USER}\n" in DOCKERFILE
