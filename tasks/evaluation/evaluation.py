"""What an evaluation is asked to do, as one validated model, and the ordinary fusion jobs that it comes to."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import ConfigurationError
from tasks.evaluation.datasets import DataSet
from tasks.evaluation.methods import Method, default_methods, parse_grid, parse_methods
from tasks.evaluation.plots import PAPER_METRICS
from tasks.form_order import in_order
from tasks.job import Job, refuse_credentials
from tasks.job_file import make_job
from tasks.storage import absolute, join
from tasks.wrong_fields import wrong_fields

_SHEETS = 4
_MOST_BLIND = 26


class Evaluation(BaseModel):
    """Data sets, methods and what to make of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=in_order)

    data: str = Field(description="A folder or URL that is a data set, or holds some, in a known layout.")
    out: str = Field(description="Destination: one folder per data set, tables and sheets beside them.")
    sets: tuple[str, ...] = Field((), description="Names of data sets; by default all that are found.")
    methods: tuple[str, ...] = Field(
        (), description="A mode, NAME=MODE, MODE:FIELD=VALUE,..., or table2; by default every mode."
    )
    grid: tuple[str, ...] | None = Field(
        None, description="FIELD=VALUE,VALUE,... each; every combination is one more method."
    )
    metrics: tuple[str, ...] = Field(PAPER_METRICS, description="Columns of the tables.")
    every: int = Field(1, ge=1, description="Only every so many-th pair of each data set.")
    output: Literal["clip", "stretch"] = Field("clip", description="Of pictures, where a method does not say.")
    also_stretch: bool = Field(False, description="Measure pictures a second time, stretched as in the papers.")
    steps: int | None = Field(None, description="Diffusion steps, where a method does not say.")
    seed: int = Field(0, description="With the content of a pair it chooses the noise.")
    prior: str = Field("bundled", description="`bundled`, or a file: guided-diffusion .pt, or .safetensors.")
    device: str = Field("auto", description="auto takes a GPU where there is one; cpu, cuda, cuda:1.")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Of the prior's network.")
    batch: int = Field(4, ge=1, description="Pairs of one size that go through the network together.")
    sheets: int | None = Field(
        None, ge=0, description=f"Contact sheets per data set; by default {_SHEETS}, none with a grid."
    )
    blind: bool = Field(False, description="Letters instead of names on the sheets, with a key beside them.")
    trace: str | None = Field(None, description="Key of a pair, or SET/KEY, whose steps are shown.")
    wait: bool = Field(False, description="Wait while another run works on a data set's folder.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_credentials("data", self.data)
        refuse_credentials("out", self.out)
        if f"{absolute(self.out)}/".startswith(f"{absolute(self.data)}/"):
            raise ValueError(f"out: {self.out} lies inside data, so that results would be taken for data; name another")
        unknown = [name for name in self.metrics if name not in METRIC_NAMES]
        if unknown or not self.metrics:
            raise ValueError(f"metrics: there is no {', '.join(unknown)}; allowed are {', '.join(METRIC_NAMES)}")
        return self

    @property
    def sheets_per_set(self) -> int:
        """Contact sheets per data set."""
        return self.sheets if self.sheets is not None else 0 if self.grid is not None else _SHEETS

    def chosen_methods(self) -> tuple[Method, ...]:
        """The methods in the order of the tables, every setting filled in that the evaluation decides.

        Raises:
            ConfigurationError: a method or the grid is wrong, two methods share a name, or there are too many letters.
        """
        named = parse_methods(self.methods)
        points = parse_grid(self.grid) if self.grid is not None else ()
        by_name: dict[str, Method] = {}
        for method in (*(named or (() if points else default_methods())), *points):
            filled = Method(method.name, {**self._decided(method), **method.settings})
            if by_name.setdefault(filled.name, filled) != filled:
                raise ConfigurationError(f"methods: {filled.name} stands for two configurations; give other names")
        for method in by_name.values():
            if self.has_twin(method) and method.twin_name in by_name:
                raise ConfigurationError(
                    f"methods: {method.twin_name} is also the name of the stretched twin of {method.name}; give another"
                )
        if self.blind and self.sheets_per_set and len(by_name) > _MOST_BLIND:
            raise ConfigurationError(f"blind: there are {len(by_name)} methods for {_MOST_BLIND} letters; take fewer")
        return tuple(by_name.values())

    def has_twin(self, method: Method) -> bool:
        """Whether the pictures of one of the chosen methods are measured stretched, too; not where they are anyway."""
        return self.also_stretch and method.settings.get("output") != "stretch"

    def _decided(self, method: Method) -> dict[str, Any]:
        settings: dict[str, Any] = {"output": self.output, "prior": self.prior, "precision": self.precision}
        if method.diffuses:
            settings["seed"] = self.seed
        if self.steps is not None and not method.is_baseline:
            settings["steps"] = self.steps
        return settings

    def folder(self, data_set: DataSet) -> str:
        """The destination of the fusion runs over a data set."""
        return join(absolute(self.out), data_set.name)

    def pairs_uri(self, data_set: DataSet) -> str:
        """The table of its pairs. A part of the pairs has a table of its own, so that it is a scope of its own."""
        return join(self.folder(data_set), "pairs.csv" if self.every == 1 else f"pairs-every-{self.every}.csv")

    def job(self, data_set: DataSet, method: Method) -> Job:
        """The fusion job of a method over a data set.

        Raises:
            ConfigurationError: a setting of the method is wrong.
        """
        try:
            return make_job({
                "pairs": self.pairs_uri(data_set),
                "kind": "images",
                "out": self.folder(data_set),
                "dataset": data_set.name,
                "modality_first": data_set.modality_first,
                "modality_second": data_set.modality_second,
                "method": method.name,
                "device": self.device,
                "batch": self.batch,
                "wait": self.wait,
                **method.settings,
            })  # fmt: skip
        except ConfigurationError as error:
            raise ConfigurationError(f"methods: {method.name}: {error}") from error


def pairs_table(data_set: DataSet) -> bytes:
    """The pairs of a data set as the CSV table of a job."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("key", "first", "second"))
    rows.writerows((pair.key, pair.first or "", pair.second or "") for pair in data_set.pairs)
    return text.getvalue().encode()


def make_evaluation(settings: Mapping[str, Any]) -> Evaluation:
    """Validate ``settings``.

    Raises:
        ConfigurationError: one line per wrong field, with its value and what is allowed.
    """
    try:
        return Evaluation.model_validate(settings)
    except ValidationError as error:
        raise wrong_fields(error) from error
