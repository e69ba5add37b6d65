"""Base job templates of the work pools: what a flow run's process, container, pod or task gets.

Each begins as the default of the installed Prefect integration, so that an upgrade of it carries over, and is given
what fusing needs. A template belongs to its pool: the deployments of prefect.yaml are the same for every profile. No
secret stands in a template, which everyone who sees the server may read; it names where secrets are kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from deployments.automations import HEARTBEAT
from tasks.codes import ConfigurationError

Template = dict[str, Any]

IMAGE: Final = "ddfm-pipeline"
USER: Final = 10001
"""Of the container images; see the Dockerfile."""

FLOW_ENVIRONMENT: Final = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT.seconds),
    # A run that lost its server must fail, not start a server of its own.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
"""What every flow run gets beside its pool's variable ``env``, which goes before it."""

_OWN_DEFAULTS: Final = "defaults_of_set_up"
"""Key of a template: defaults by the name of their variable, without those of variables that a site chose."""

_SECRET: Final = re.compile(
    r"(SECRET|PASSWORD|PASSWD|PASSPHRASE|TOKEN|ACCESS_KEY|API_KEY|PRIVATE_KEY|AUTH_STRING|WEBHOOK)S?(_(?!FILE$)|$)"
    r"|(?<!PUBLIC)_KEYS?$",
    re.IGNORECASE,
)
"""Names of environment variables whose values are secrets; a name that ends in ``_FILE`` has a path."""

_URL_WITH_PASSWORD: Final = re.compile(r"://[^/\s]*:[^/\s]+@")

_REFERENCE: Final = re.compile(r"\{\{\s*(\$|prefect\.blocks\.)[^{}]+\}\}")
"""What a worker replaces by a variable of its own environment, or by the content of a Prefect block."""


class Profile(StrEnum):
    """Where flow runs live: the type of the work pools."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"
    ECS = "ecs"

    @property
    def secrets_belong(self) -> str:
        """Where a flow run takes its secrets from."""
        match self:
            case Profile.PROCESS:
                return "the environment of the workers, which flow runs inherit"
            case Profile.DOCKER:
                return (
                    "Prefect Secret blocks that a job names (credentials_block, pseudonym_block), or the environment "
                    'of the workers, which a reference such as "{{ $AWS_SECRET_ACCESS_KEY }}" names'
                )
            case Profile.KUBERNETES:
                return "the Kubernetes Secret that the variable secret_name names"
            case Profile.ECS:
                return "Secrets Manager, which the variable secrets names"


@dataclass(frozen=True)
class Resources:
    """What one flow run of a pool needs.

    Attributes:
        cpus: cores asked for.
        memory: GiB, asked for and allowed.
        gpus: NVIDIA GPUs.
        shared_memory: GiB of /dev/shm.
        time_limit: after which a run is ended, where the platform can; it is sent again.
    """

    cpus: int
    memory: int
    gpus: int
    shared_memory: int
    time_limit: timedelta

    @property
    def image(self) -> str:
        """As the Dockerfile's stages are tagged."""
        return f"{IMAGE}:{'gpu' if self.gpus else 'cpu'}"


async def job_template(profile: Profile, resources: Resources) -> Template:
    """The base job template of a pool.

    Raises:
        ConfigurationError: the installed Prefect knows no such type of pool.
    """
    default = await get_default_base_job_template_for_infrastructure_type(profile)
    if default is None:
        raise ConfigurationError(f"profile: no pools of type {profile} are known here; install the extra [{profile}]")
    template = deepcopy(default)
    # Prefect adds the variable `env` to it. A default of the variable would be lost to the first site that sets one.
    template["job_configuration"]["env"] = dict(FLOW_ENVIRONMENT)
    match profile:
        case Profile.DOCKER:
            _for_docker(template, resources)
        case Profile.KUBERNETES:
            _for_kubernetes(template, resources)
        case Profile.ECS:
            _for_ecs(template, resources)
        case Profile.PROCESS:
            pass
    variables = template["variables"]["properties"]
    template[_OWN_DEFAULTS] = {name: schema["default"] for name, schema in variables.items() if "default" in schema}
    return template


def _for_docker(template: Template, resources: Resources) -> None:
    _set_default(template, "image", resources.image)
    _set_default(template, "image_pull_policy", "IfNotPresent")
    _set_default(template, "mem_limit", f"{resources.memory}g")
    create: dict[str, Any] = {"init": True, "shm_size": "{{ shared_memory }}"}
    _add(template, "shared_memory", "string", f"{resources.shared_memory}g", "Size of /dev/shm.")
    if resources.gpus:
        # By number: a count takes the first GPUs of the machine for every container.
        create["device_requests"] = [{"driver": "nvidia", "device_ids": "{{ gpu_devices }}", "capabilities": [["gpu"]]}]
        devices = [str(number) for number in range(resources.gpus)]
        _add(template, "gpu_devices", "array", devices, "Numbers of the GPUs that a container gets.", items="string")
    template["job_configuration"]["container_create_kwargs"] = create
    # It would have no effect any more.
    del template["variables"]["properties"]["container_create_kwargs"]


def _for_kubernetes(template: Template, resources: Resources) -> None:
    job = template["job_configuration"]["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    for field in ("completions", "parallelism"):
        # Some versions' default has these fields of a job on its pod, where the API server does not take them.
        job[field] = pod.pop(field, 1)

    _set_default(template, "image", resources.image)
    _set_default(template, "cpu_request", str(resources.cpus))
    _set_default(template, "memory_request", f"{resources.memory}Gi")
    _set_default(template, "memory_limit", f"{resources.memory}Gi")
    _set_default(template, "finished_job_ttl", 3600)

    _add(template, "time_limit_seconds", "integer", int(resources.time_limit.total_seconds()), "A run ends after it.")
    job["activeDeadlineSeconds"] = "{{ time_limit_seconds }}"

    # A pod moved to spare a node costs a shard its minutes.
    metadata = job["template"].setdefault("metadata", {})
    metadata.setdefault("annotations", {})["cluster-autoscaler.kubernetes.io/safe-to-evict"] = "false"
    metadata.setdefault("labels", {})["app.kubernetes.io/part-of"] = IMAGE

    _add(template, "node_selector", "object", {}, "Labels of the nodes that pods may run on.", values="string")
    pod["nodeSelector"] = "{{ node_selector }}"
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if resources.gpus else []
    _add(template, "tolerations", "array", tolerations, "Taints of nodes that pods bear.", items="object")
    pod["tolerations"] = "{{ tolerations }}"
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

    if resources.gpus:
        _add(template, "gpu_count", "integer", resources.gpus, "NVIDIA GPUs per pod.")
        container["resources"]["limits"]["nvidia.com/gpu"] = "{{ gpu_count }}"

    _add(template, "shared_memory", "string", f"{resources.shared_memory}Gi", "Size of /dev/shm.")
    pod["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "{{ shared_memory }}"}}]
    container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108 - of the pod

    _add(template, "secret_name", "string", "ddfm-credentials", "Kubernetes Secret whose keys become variables.")
    container["envFrom"] = [{"secretRef": {"name": "{{ secret_name }}", "optional": True}}]


def _for_ecs(template: Template, resources: Resources) -> None:
    container = template["job_configuration"]["task_definition"]["containerDefinitions"][0]
    _set_default(template, "image", resources.image)
    _set_default(template, "cpu", 1024 * resources.cpus)
    _set_default(template, "memory", 1024 * resources.memory)
    _add(template, "secrets", "array", [], "From Secrets Manager: objects with name and valueFrom.", items="object")
    container["secrets"] = "{{ secrets }}"
    container["linuxParameters"] = {"initProcessEnabled": True}
    if resources.gpus:
        # Fargate has neither GPUs nor a /dev/shm of another size.
        _set_default(template, "launch_type", "EC2")
        _add(template, "gpu_count", "string", str(resources.gpus), "NVIDIA GPUs per task.")
        container["resourceRequirements"] = [{"type": "GPU", "value": "{{ gpu_count }}"}]
        _add(template, "shared_memory_mib", "integer", 1024 * resources.shared_memory, "Size of /dev/shm.")
        container["linuxParameters"]["sharedMemorySize"] = "{{ shared_memory_mib }}"


def _set_default(template: Template, name: str, value: object) -> None:
    template["variables"]["properties"][name]["default"] = value


def _add(
    template: Template,
    name: str,
    kind: str,
    default: object,
    description: str,
    *,
    items: str | None = None,
    values: str | None = None,
) -> None:
    schema: dict[str, Any] = {"title": name.replace("_", " ").capitalize(), "type": kind, "default": default}
    if items:
        schema["items"] = {"type": items}
    if values:
        schema["additionalProperties"] = {"type": values}
    template["variables"]["properties"][name] = {**schema, "description": description}


def secrets_in(environment: object) -> list[str]:
    """Names of the variables of an environment that hold a secret, by their name or by a URL with a password.

    References are none: what they stand for is put in by the worker.
    """
    if not isinstance(environment, Mapping):
        return []
    return [
        name
        for name, value in environment.items()
        if (value and _SECRET.search(name) and not _REFERENCE.fullmatch(str(value)))
        or _URL_WITH_PASSWORD.search(_REFERENCE.sub("", str(value)))
    ]


def choose(template: Template, name: str, value: object) -> None:
    """Give a variable the default that a site chose."""
    _set_default(template, name, value)
    template[_OWN_DEFAULTS].pop(name, None)


def keep_choices(template: Template, earlier: Mapping[str, Any]) -> Template:
    """The template with the defaults that a site chose in an earlier one, here or by hand.

    Those that the earlier one had by itself are not kept: they are the new template's to change. In one that does not
    say which they are, because somebody else made it, every default that differs from the new one counts as chosen.
    """
    kept = deepcopy(template)
    own: Mapping[str, Any] = earlier.get(_OWN_DEFAULTS, template[_OWN_DEFAULTS])
    before = earlier.get("variables", {}).get("properties", {})
    for name in kept["variables"]["properties"]:
        schema = before.get(name, {})
        if "default" in schema and (name not in own or schema["default"] != own[name]):
            choose(kept, name, schema["default"])
    return kept
