"""What the work pools' templates come to, by the workers' own classes, against the platforms' own schemas."""

import asyncio
import copy
import uuid
from pathlib import Path

import botocore.session
import botocore.validate
import docker
import kubernetes_validate
import pytest
from docker.models.containers import _create_container_args
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration
from prefect_aws.workers.ecs_worker import ECSJobConfiguration, ECSWorker
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

from deployments.job_templates import FLOW_ENVIRONMENT, Profile, choose, job_template, keep_choices, secrets_in
from deployments.work_pools import POOLS, Pool

KUBERNETES = ("1.30", "1.34")
ORCHESTRATION, GPU, CPU = POOLS
NO_CLIENT = object()  # a template without references to blocks asks no server
FLOW_RUN = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="20260101T021500 0007")


def template_of(profile: Profile, pool: Pool):
    return asyncio.run(job_template(profile, pool.resources))


def rendered(configuration, template, values):
    made = asyncio.run(configuration.from_template_and_values(template, values, client=NO_CLIENT))
    made.prepare_for_flow_run(FLOW_RUN)
    return made


def kubernetes_job(pool, **values):
    return rendered(KubernetesWorkerJobConfiguration, template_of(Profile.KUBERNETES, pool), values).job_manifest


def container_of(job):
    return job["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.name)
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_job(pool, version):
    kubernetes_validate.validate(kubernetes_job(pool), version, strict=True)


def test_a_pod_with_a_gpu():
    job = kubernetes_job(GPU, namespace="fusion", image="registry.example/ddfm:7", gpu_count=2, time_limit_seconds=900)
    pod, container = job["spec"]["template"]["spec"], container_of(job)
    assert job["metadata"]["namespace"] == "fusion"
    assert job["spec"]["activeDeadlineSeconds"] == 900
    assert container["image"] == "registry.example/ddfm:7"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2, "memory": "12Gi"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]
    annotations = job["spec"]["template"]["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert {"name": "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "value": "30"} in container["env"]
    assert container["envFrom"] == [{"secretRef": {"name": "ddfm-credentials", "optional": True}}]


def test_a_pod_without_a_gpu_asks_for_none():
    job = kubernetes_job(ORCHESTRATION, node_selector={"kubernetes.io/arch": "amd64"})
    assert container_of(job)["resources"]["limits"] == {"memory": "2Gi"}
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/arch": "amd64"}


def test_a_misspelt_field_would_be_found():
    job = kubernetes_job(GPU)
    job["spec"]["template"]["spec"]["tolerationz"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="tolerationz"):
        kubernetes_validate.validate(job, KUBERNETES[0], strict=True)


def docker_settings(pool, **values):
    values["env"] = {"PREFECT_API_URL": "http://prefect.example:4200/api"}
    return container_settings(template_of(Profile.DOCKER, pool), pool, values)


def container_settings(template, pool, values):
    configuration = rendered(DockerWorkerJobConfiguration, template, values)
    # Of a stated version, and for a server on another machine, so that no engine is asked.
    client = docker.DockerClient(base_url="tcp://127.0.0.1:9", version="1.47")
    settings = DockerWorker(work_pool_name=pool.name)._build_container_settings(client, configuration)
    return _create_container_args({**settings, "version": "1.47", "image": configuration.image})


def test_a_container_with_a_gpu():
    settings = docker_settings(GPU, gpu_devices=["3"], volumes=["/srv/archive:/archive"])
    host = settings["host_config"]
    (request,) = host["DeviceRequests"]
    assert (request["Driver"], request["DeviceIDs"], request["Capabilities"]) == ("nvidia", ["3"], [["gpu"]])
    assert host["ShmSize"] == 1 << 30
    assert host["Memory"] == 12 << 30
    assert host["Init"] is True
    assert host["Binds"] == ["/srv/archive:/archive"]
    assert settings["image"] == "ddfm-pipeline:gpu"
    assert settings["environment"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_a_container_without_a_gpu():
    settings = docker_settings(CPU)
    assert "DeviceRequests" not in settings["host_config"]
    assert settings["image"] == "ddfm-pipeline:cpu"


def test_an_ended_container_stays_for_its_exit_code_and_is_known_by_its_label():
    """It is removed by hand, or by a timer: docs/operations.md says how."""
    settings = docker_settings(GPU)
    assert not settings["host_config"].get("AutoRemove")
    assert "io.prefect.version" in settings["labels"]
    guide = Path(__file__).parents[2] / "docs/operations.md"
    assert "docker container prune --force --filter until=24h --filter label=io.prefect.version" in guide.read_text()


def task_definition(pool, **values):
    configuration = rendered(ECSJobConfiguration, template_of(Profile.ECS, pool), values)
    return ECSWorker(work_pool_name=pool.name)._prepare_task_definition(configuration, "eu-central-1", FLOW_RUN)


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.name)
def test_ecs_takes_the_task(pool):
    secrets = [{"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": "arn:aws:secretsmanager:eu-central-1:1:secret:s3"}]
    definition = task_definition(pool, secrets=secrets, cluster="fusion")
    model = botocore.session.get_session().get_service_model("ecs")
    shape = model.operation_model("RegisterTaskDefinition").input_shape
    report = botocore.validate.ParamValidator().validate(definition, shape)
    assert not report.has_errors(), report.generate_report()
    (container,) = definition["containerDefinitions"]
    assert container["secrets"] == secrets
    assert container.get("resourceRequirements") == ([{"type": "GPU", "value": "1"}] if pool is GPU else None)


# ---- the environment of a flow run -----------------------------------------------------------------------------------

API = {"PREFECT_API_URL": "http://prefect.example:4200/api"}


def process_environment(template, values):
    return rendered(ProcessJobConfiguration, template, values).env


def docker_environment(template, values):
    return container_settings(template, GPU, values)["environment"]


def kubernetes_environment(template, values):
    job = rendered(KubernetesWorkerJobConfiguration, template, values).job_manifest
    return {entry["name"]: entry["value"] for entry in container_of(job)["env"]}


def ecs_environment(template, values):
    configuration = rendered(ECSJobConfiguration, template, values)
    worker = ECSWorker(work_pool_name="gpu")
    definition = worker._prepare_task_definition(configuration, "eu-central-1", FLOW_RUN)
    request = worker._prepare_task_run_request(configuration, definition, "arn", True)
    (container,) = request["overrides"]["containerOverrides"]
    return {entry["name"]: entry["value"] for entry in container["environment"]}


ENVIRONMENTS = {
    Profile.PROCESS: process_environment,
    Profile.DOCKER: docker_environment,
    Profile.KUBERNETES: kubernetes_environment,
    Profile.ECS: ecs_environment,
}


@pytest.mark.parametrize("profile", Profile)
def test_a_sites_environment_comes_beside_ours(profile):
    template = template_of(profile, GPU)
    choose(template, "env", {**API, "HTTPS_PROXY": "http://proxy:3128", "DO_NOT_TRACK": "0"})
    environment = ENVIRONMENTS[profile](template, {"env": {"OF_THE_DEPLOYMENT": "1"}})
    wanted = {"HTTPS_PROXY": "http://proxy:3128", "DO_NOT_TRACK": "0", "OF_THE_DEPLOYMENT": "1"}
    ours = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PREFECT_SERVER_EPHEMERAL_ENABLED": "false"}
    assert environment.items() >= (wanted | ours).items()


def test_a_container_takes_a_secret_from_the_environment_of_its_worker(monkeypatch):
    monkeypatch.setenv("ARCHIVE_AWS_SECRET_ACCESS_KEY", "of the worker")
    template = template_of(Profile.DOCKER, GPU)
    reference = {"ARCHIVE_AWS_SECRET_ACCESS_KEY": "{{ $ARCHIVE_AWS_SECRET_ACCESS_KEY }}"}
    assert secrets_in(reference) == []
    choose(template, "env", {**API, **reference})
    assert docker_environment(template, {})["ARCHIVE_AWS_SECRET_ACCESS_KEY"] == "of the worker"


@pytest.mark.parametrize(
    "name",
    ["DDFM_PSEUDONYM_SECRET", "AWS_SECRET_ACCESS_KEY", "ARCHIVE_AWS_ACCESS_KEY_ID", "PGPASSWORD", "hub_token",
     "AWS_SESSION_TOKEN", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_ENCRYPTION_KEY", "LICENCE_KEY",
     "SLACK_WEBHOOK_URL", "webhook"],
)  # fmt: skip
def test_what_looks_like_a_secret(name):
    assert secrets_in({name: "x", "OMP_NUM_THREADS": "2"}) == [name]
    assert secrets_in({name: "{{ prefect.blocks.secret.of-the-site }}"}) == []
    assert secrets_in({name: None}) == []


def test_what_does_not_look_like_a_secret():
    assert secrets_in({
        "AWS_SHARED_CREDENTIALS_FILE": "/etc/ddfm/credentials", "AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token",
        "TOKENIZERS_PARALLELISM": "false", "AWS_ENDPOINT_URL": "http://s3:9000", "SIGNING_KEY_FILE": "/run/key",
        "PREFECT_API_URL": "http://prefect.example:4200/api", "OWNER": "mailto://a:b", "SITE_PUBLIC_KEY": "ssh-ed25519",
        "AT": "https://example.org:80/@me", "DATABASE": "postgresql://ddfm:{{ $DATABASE_PASSWORD }}@host/x",
    }) == []  # fmt: skip
    assert secrets_in(FLOW_ENVIRONMENT) == []


@pytest.mark.parametrize(
    "url", ["http://ddfm:x@proxy.example:3128", "redis://:x@host", "postgresql+asyncpg://ddfm:p@ss@host/prefect"]
)
def test_a_url_with_a_password_is_a_secret_whatever_its_name(url):
    assert secrets_in({"HTTPS_PROXY": url, "NO_PROXY": "localhost"}) == ["HTTPS_PROXY"]


# ---- what a site chooses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool.name)
def test_every_variable_has_an_effect(profile, pool):
    template = template_of(profile, pool)
    configured = str(template["job_configuration"])
    unused = {name for name in template["variables"]["properties"] if f"{{{{ {name} }}}}" not in configured}
    # Prefect adds it to an environment that the template has.
    assert unused <= {"env"}


def test_what_a_site_chose_stays_and_the_rest_is_the_new_templates():
    older = template_of(Profile.KUBERNETES, GPU)
    choose(older, "image", "registry.example/ddfm:gpu")
    choose(older, "memory_limit", older["variables"]["properties"]["memory_limit"]["default"])
    older["variables"]["properties"]["gpu_count"]["default"] = 4  # by hand
    newer = template_of(Profile.KUBERNETES, GPU)
    changed = {"image": "ddfm-pipeline:2", "memory_limit": "64Gi", "cpu_request": "16", "gpu_count": 8}
    for name, value in changed.items():
        newer["variables"]["properties"][name]["default"] = newer["defaults_of_set_up"][name] = value
    newer["job_configuration"]["env"]["NEW"] = "1"
    kept = keep_choices(newer, older)
    variables = kept["variables"]["properties"]
    defaults = {name: variables[name]["default"] for name in changed}
    assert defaults == {
        "image": "registry.example/ddfm:gpu", "memory_limit": "12Gi", "cpu_request": "16", "gpu_count": 4,
    }  # fmt: skip
    assert kept["job_configuration"] == newer["job_configuration"]
    # And so on over the upgrades that follow.
    assert keep_choices(newer, kept) == kept


def test_a_pool_that_somebody_else_made_keeps_what_differs():
    template = template_of(Profile.KUBERNETES, GPU)
    earlier = copy.deepcopy(template)
    del earlier["defaults_of_set_up"]
    earlier["variables"]["properties"]["gpu_count"]["default"] = 4
    del earlier["variables"]["properties"]["tolerations"]
    kept = keep_choices(template, earlier)
    variables = kept["variables"]["properties"]
    assert variables["gpu_count"]["default"] == 4
    assert variables["tolerations"] == template["variables"]["properties"]["tolerations"]
    assert set(template["defaults_of_set_up"]) - set(kept["defaults_of_set_up"]) == {"gpu_count"}
