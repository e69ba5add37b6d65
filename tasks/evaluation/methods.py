"""The methods of an evaluation: named configurations of the algorithm, as people write them on a command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from types import MappingProxyType
from typing import Any, Final, get_args

import yaml

from ddfm_core.baselines import is_baseline
from ddfm_core.fusion import FusionConfig, Mode
from tasks.codes import ConfigurationError
from tasks.job import Job

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
STRETCHED: Final = "-stretch"
"""Ends the name of a method's twin: its pictures, measured again when they are stretched as in the papers."""

TABLE2: Final = "table2"
_TABLE2: Final[Mapping[str, str]] = MappingProxyType({
    "without-prior": "without-prior=paper:use_prior=false",
    "without-tv": "without-tv=paper:tv_weight=0",
    "phi-0.1": "phi-0.1=paper:phi=0.1",
    "phi-1": "phi-1=paper:phi=1",
    "paper": "paper",
})  # fmt: skip
"""Experiments I to IV of the paper's Table 2, and the whole method, by the names of their rows."""

_STANDS_FOR: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {TABLE2: tuple(_TABLE2.values())} | {name: (text,) for name, text in _TABLE2.items()}
)
"""The group, and each of its members alone."""

_GRID: Final[Mapping[str, Sequence[str]]] = MappingProxyType({
    "mode": ("paper",),
    "tv_weight": ("0.1", "0.5", "1"),
    "penalty": ("0.01", "0.1", "1"),
    "steps": ("5", "10", "25"),
})  # fmt: skip
"""What a grid goes through where it is not told."""


def idle_fields(config: FusionConfig) -> frozenset[str]:
    """Fields of a job that change nothing in the pictures of a configuration."""
    return config.without_effect if config.draws else config.without_effect | {"prior", "precision"}


@dataclass(frozen=True)
class Method:
    """A configuration under a name.

    Attributes:
        name: of its folder and its rows.
        settings: fields of a job, with ``mode`` among them.
    """

    name: str
    settings: Mapping[str, Any]

    @property
    def mode(self) -> str:
        """Its mode."""
        return str(self.settings["mode"])

    @property
    def is_baseline(self) -> bool:
        """Whether it is a classical rule, which has no steps."""
        return is_baseline(self.mode)

    @property
    def diffuses(self) -> bool:
        """Whether it is a variant of DDFM with a prior, not a classical rule or an ablation without one."""
        return not self.is_baseline and self.settings.get("use_prior", True) is not False

    @property
    def without_effect(self) -> frozenset[str]:
        """Fields that change nothing in its pictures."""
        config = FusionConfig(mode=self.settings["mode"], use_prior=self.is_baseline or self.diffuses)
        return idle_fields(config)

    @property
    def twin_name(self) -> str:
        """Of its stretched twin."""
        return self.name + STRETCHED


def allowed_fields() -> tuple[str, ...]:
    """The fields that a method may set: those of the algorithm, and what its prior is."""
    algorithm = [item.name for item in fields(FusionConfig) if item.name in Job.model_fields and item.name != "mode"]
    return (*algorithm, "prior", "precision")


def modes() -> tuple[str, ...]:
    """The modes that this version can run, in the order of a table."""
    return tuple(mode for mode in get_args(Mode) if _works(mode))


def _works(mode: Any) -> bool:
    try:
        FusionConfig(mode=mode)
    except ValueError:
        return False
    return True


def default_methods() -> tuple[Method, ...]:
    """Every mode as it is by default."""
    return tuple(Method(mode, {"mode": mode}) for mode in modes())


def parse_methods(texts: Iterable[str]) -> tuple[Method, ...]:
    """Methods as written: ``MODE``, ``NAME=MODE``, both also with ``:FIELD=VALUE,...`` behind it, ``table2``, or one of
    its rows such as ``phi-1``.

    Without a name it is made of mode, fields and values. A method that is named twice in the same way counts once.

    Raises:
        ConfigurationError: a text is none of these, or one name stands for two configurations. Values are checked with
            the job that they become part of.
    """
    found: dict[str, Method] = {}
    for text in texts:
        for one in _STANDS_FOR.get(text, (text,)):
            method = _parse(one)
            if found.setdefault(method.name, method) != method:
                raise ConfigurationError(f"methods: {method.name} stands for two configurations; give them other names")
    return tuple(found.values())


def parse_grid(texts: Sequence[str]) -> tuple[Method, ...]:
    """Every combination of the values of a grid, as written: ``tv_weight=0.1,0.5 steps=5,10,25 mode=paper``.

    Fields that are not given have one value, their default; without any, ``tv_weight``, ``penalty`` and ``steps`` of
    mode `paper` go through values of ours. The mode is the default one, but `paper` when a field is given that only
    the paper's rule uses.

    Raises:
        ConfigurationError: a text is not FIELD=VALUE,VALUE, a field is given twice or unknown, or has several values
            where it has no effect, so that the same pictures would be fused for each.
    """
    axes: dict[str, Sequence[str]] = {}
    for text in texts:
        name, found, values = text.partition("=")
        if not found or not all(values.split(",")):
            raise ConfigurationError(f"grid: {text!r} is not FIELD=VALUE,VALUE,... such as steps=5,10,25")
        if name in axes:
            raise ConfigurationError(f"grid: {name} is given twice; write its values into one, with commas")
        if name not in (*allowed_fields(), "mode"):
            raise ConfigurationError(f"grid: there is no field {name!r}; the fields are {', '.join(allowed_fields())}")
        axes[name] = values.split(",")
    axes = axes or dict(_GRID)
    # Mode `adaptive` refuses phi.
    of_paper = {*FusionConfig().without_effect, "phi"}
    chosen_modes = axes.pop("mode", (FusionConfig().mode if of_paper.isdisjoint(axes) else "paper",))
    methods = []
    for mode in chosen_modes:
        for values_of_one in product(*axes.values()):
            settings = ",".join(f"{name}={value}" for name, value in zip(axes, values_of_one, strict=True))
            methods.append(_parse(f"{mode}:{settings}" if settings else mode))
    for method in methods:
        idle = [name for name, values in axes.items() if len(values) > 1 and name in method.without_effect]
        if idle:
            raise ConfigurationError(
                f"grid: the values of {', '.join(idle)} make no difference in {method.name}; give one, or another mode="
            )
    return tuple(methods)


def _parse(text: str) -> Method:
    head, colon, tail = text.partition(":")
    name, named, mode = head.partition("=")
    if not named:
        name, mode = "", head
    if mode not in modes():
        raise ConfigurationError(
            f"methods: {text!r} has no mode {mode!r}; allowed are {', '.join(modes())}, NAME=MODE:FIELD=VALUE,..., "
            f"the group {TABLE2} and of it {', '.join(name for name in _TABLE2 if name not in modes())}"
        )
    settings: dict[str, Any] = {"mode": mode}
    for part in tail.split(",") if colon else ():
        field, found, value = part.partition("=")
        if not found or field not in allowed_fields():
            raise ConfigurationError(
                f"methods: {text!r}: {part!r} is not FIELD=VALUE with a field of {', '.join(allowed_fields())}"
            )
        if field in settings:
            raise ConfigurationError(f"methods: {text!r}: {field} is given twice")
        settings[field] = _value(text, value)
    name = name or _made_name(mode, settings)
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"methods: {text!r}: {name!r} is no name of letters, digits, '.', '_' and '-'")
    return Method(name, MappingProxyType(settings))


def _value(text: str, value: str) -> Any:
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"methods: {text!r}: {value!r} is no value") from error
    # YAML takes 1e-3, without a point, for a text.
    return float(value) if re.fullmatch(r"[-+]?\d+e[-+]?\d+", value, re.IGNORECASE) else found


def _made_name(mode: str, settings: Mapping[str, Any]) -> str:
    parts = [f"{field}-{_in_a_name(value)}" for field, value in settings.items() if field != "mode"]
    return "_".join((mode, *parts))


def _in_a_name(value: object) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-")
