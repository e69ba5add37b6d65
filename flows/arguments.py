"""The command line of ``ddfm``: its commands, their options, and the fields of a job that they set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ddfm_core.default_steps import ADAPTIVE_START, ADAPTIVE_STEPS, STEPS

DESCRIPTION = """\
Fuse whole archives of pairs of pictures or volumes (infrared + visible, MRI + CT, MRI + PET, MRI + SPECT) with DDFM,
the denoising diffusion fusion model, using a pre-trained prior and no training on pairs.
"""

EPILOG = """\
examples:
  ddfm demo                                              make a small sample archive, fuse it, show where to look
  ddfm fuse archive/infrared archive/visible --out fused
  ddfm fuse s3://bucket/ct s3://bucket/mri --out s3://bucket/fused --batch 16
  ddfm config --template > job.yaml                      every setting with its meaning
  ddfm fuse --config job.yaml
  ddfm fuse --archive studies --modality-first CT --modality-second MR --out fused     DICOM volumes, docs/volumes.md
  ddfm index --config job.yaml                           what that would do now, and how long it would take
  ddfm status fused                                      what the runs of a destination did
  ddfm report fused                                      a page about the last run: figures, outliers, drift
  ddfm verify fused --deep                               every picture against its row
  ddfm prune --config job.yaml                           pictures whose sources are gone
  ddfm evaluate TNO --out evaluation --every 5           tables of the paper and contact sheets, for every method

exit codes: 0 all good, 1 finished with rejected or failed pairs, 2 wrong usage or configuration, 3 the run failed
"""

FUSE_EPILOG = """\
A run over an unchanged archive does nothing; new and changed pairs are fused, a killed run is resumed.
S3: credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
The flow is recorded on the Prefect server at PREFECT_API_URL, or on an embedded one (about 20 s to start);
--no-prefect runs the same stages without it.
"""

EVALUATE_EPILOG = """\
methods, of --methods:
  adaptive                               a mode: adaptive, paper, released, mean, max, laplacian, gradient
  paper:steps=10,tv_weight=0.1           with fields of a job file changed; its name is made of them
  quick=adaptive:steps=5                 the same under a name of yours
  table2                                 the ablations of the paper's Table 2; one alone: phi-1, without-prior, ...
By default every mode. Each method is an ordinary fusion run into OUT/SET, resumed and left alone as by `ddfm fuse`.

examples:
  ddfm evaluate /data/pairs --out evaluation
  ddfm evaluate /data/pairs --out evaluation --sheets 8 --blind       judge without knowing which method is which
  ddfm evaluate /data/pairs --out first-look --sets roadscene --methods adaptive laplacian quick=adaptive:steps=5
  ddfm evaluate /data/pairs --out table2 --methods table2 --every 5 --steps 25
  ddfm evaluate TNO --out grid --every 5 --grid steps=5,10,25,50,100 start=300,999
  ddfm evaluate TNO --out trace --methods adaptive --trace 07         what happens to one pair, step by step

writes OUT/evaluation.parquet (a row per set, method and pair of this call), OUT/tables.md, OUT/sheets, OUT/plots;
docs/evaluation.md lists the layouts that are recognised and explains what the tables mean
"""

REPORT_EPILOG = """\
The page is DEST/_ddfm/runs/<run>/report/index.html, one file without scripts: counts by code with what to do, the
distribution of each metric, the pairs at its ends with small pictures, times, and what moved against the run before.
Of volumes and in strict privacy it shows no sources. docs/results.md says when a metric counts as drifted.

examples:
  ddfm report fused                                      the newest run
  ddfm report s3://bucket/fused --method adaptive
  ddfm report --config job.yaml --pictures 0             no pictures; S3 places as the job says
  ddfm report fused --run 20261124T021500-000000-1a2b3c

exit codes: 0 nothing stands out, 1 the run drifted or failed (the page is written), 2 wrong usage or no such run,
3 the destination cannot be read or written
"""

_STEPS = f"adaptive {ADAPTIVE_STEPS}; paper, released {STEPS}"
_START = f"adaptive {ADAPTIVE_START}; paper, released pure noise"

# Command line options that set a field of the job: (option, field, type, help). First those that name places:
PLACE_OPTIONS: tuple[tuple[str, str, type, str], ...] = (
    ("--mode", "mode", str, "adaptive (default), paper, released; or a classical rule: mean, max, laplacian, gradient"),
    ("--pairs", "pairs", str, "a CSV or Parquet table of pairs instead of FIRST and SECOND"),
    ("--archive", "archive", str, "one root of DICOM series or BIDS files instead of FIRST and SECOND"),
    ("--pairing", "pairing", str, "in an archive: dicom (default) by patient and space, bids by names"),
    ("--kind", "kind", str, "auto (default) looks at the sources; images, or volumes (DICOM, NIfTI)"),
    ("--modality-first", "modality_first", str, "such as CT or PET; needed in an archive and for NIfTI volumes"),
    ("--modality-second", "modality_second", str, "such as MRI"),
    ("--method", "method", str, "name of this configuration, a folder of the destination (default: the mode)"),
)
# then those of `ddfm fuse` alone:
FUSE_OPTIONS: tuple[tuple[str, str, type, str], ...] = (
    ("--steps", "steps", int, f"diffusion steps (default: {_STEPS})"),
    ("--start", "start", int, f"timestep at which to begin; 999 is the full range (default: {_START})"),
    ("--seed", "seed", int, "chooses the noise, with the pair's content (default 0)"),
    ("--samples", "samples", int, "publish the mean of so many pictures and a map of their deviation (default 1)"),
    ("--batch", "batch", int, "pairs of one size that go through the network together (default 4)"),
    ("--prior", "prior", str, "bundled (default), or a guided-diffusion .pt or .safetensors file"),
    ("--device", "device", str, "auto (default), cpu, cuda or cuda:N"),
    ("--precision", "precision", str, "of the network: float32 (default), bfloat16 or float16"),
    ("--output", "output", str, "clip, stretch or none (default: clip; released: stretch)"),
    ("--bit-depth", "bit_depth", int, "of the fused PNG: 8 (default) or 16"),
    ("--register", "register", str, "pictures: none (default), resize, translation, affine; volumes: auto, rigid, ..."),
    ("--dataset", "dataset", str, "name of the data set, a column of the result table"),
    ("--limit", "limit", int, "fuse at most so many pairs, the first by key"),
    ("--since", "since", str, "only pairs of which a source was modified since, such as 2026-01-31T00:00:00Z"),
    ("--fingerprint", "fingerprint", str, "stat (default): size and time or ETag; content: hash of all bytes"),
    ("--deployment", "deployment", str, "send shards to a Prefect deployment such as fuse-shard/gpu"),
)


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``ddfm``."""
    parser = argparse.ArgumentParser(
        prog="ddfm", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    fuse = commands.add_parser(
        "fuse",
        help="fuse every pair of an archive",
        description="Fuse every pair of two folders (paired by stem), of an archive, of a table, or of a job file. "
        "Medical volumes need a secret for their pseudonyms in DDFM_PSEUDONYM_SECRET, or privacy: off in a job file.",
        epilog=FUSE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fuse.add_argument("--no-prefect", action="store_true", help="run the stages as plain functions, without a server")
    add_job_arguments(fuse)

    index = commands.add_parser(
        "index",
        help="show what `ddfm fuse` would do, and how long it would take",
        description="Index the archive and show the plan, without running it. Takes the arguments of `ddfm fuse`.",
    )
    add_job_arguments(index)

    config = commands.add_parser("config", help="write or explain a job file")
    action = config.add_mutually_exclusive_group(required=True)
    action.add_argument("--template", action="store_true", help="print a commented job file")
    action.add_argument("--check", type=Path, metavar="JOB.yaml", help="say what a job file would do, or what is wrong")

    status = commands.add_parser("status", help="what the runs of a destination did")
    add_destination(status)

    report = commands.add_parser(
        "report",
        help="write a page about a run: figures, pictures of outliers, drift",
        description="Write one HTML page about a run of a destination.",
        epilog=REPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_destination(report)
    report.add_argument("--run", metavar="RUN", help="its name, as `ddfm status` lists it (default: the newest)")
    report.add_argument("--method", help="the newest run of this method (with --config: of the job's)")
    report.add_argument(
        "--pictures", type=int, metavar="N", help="pairs at either end of each metric (default 3, at most 6, 0: none)"
    )

    verify = commands.add_parser(
        "verify",
        help="compare the pictures and tables of a destination",
        description="Compare every picture with its row, and every run's rows with its plan. Exit code 1 at any fault.",
    )
    add_destination(verify)
    verify.add_argument("--deep", action="store_true", help="read every picture and compare its hash")
    verify.add_argument("--repair", action="store_true", help="plan what is broken for the next `ddfm fuse`")

    prune = commands.add_parser(
        "prune",
        help="remove pictures whose sources are gone from the archive",
        description="List the pictures whose sources are gone, and remove them with --yes. Takes the sources and the "
        "destination as `ddfm fuse` does.",
    )
    add_place_arguments(prune)
    prune.add_argument("--yes", action="store_true", help="remove them, not only list them")
    prune.add_argument(
        "--most-share",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="refuse when a larger share of the pairs would go: the archive may not be mounted (default 0.5)",
    )

    evaluate = commands.add_parser(
        "evaluate",
        help="compare methods on public data sets: tables, contact sheets, plots",
        description="Fuse the public data sets below DATA with several methods, and compare them with each other and "
        "with published rows.",
        epilog=EVALUATE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_evaluation_arguments(evaluate)

    demo = commands.add_parser("demo", help="make a small sample archive, fuse it, show where to look")
    demo.add_argument("--out", type=Path, default=Path("ddfm-demo"), help="folder to make (default: ./ddfm-demo)")
    demo.add_argument("--steps", type=int, help=f"diffusion steps (default {ADAPTIVE_STEPS})")
    demo.add_argument("--prefect", action="store_true", help="run as Prefect flows, as `ddfm fuse` does")
    return parser


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Where an archive and its destination are."""
    parser.add_argument("first", nargs="?", metavar="FIRST", help="folder or URL of infrared, CT, PET or SPECT images")
    parser.add_argument("second", nargs="?", metavar="SECOND", help="folder or URL of visible or MRI images")
    parser.add_argument("--out", help="destination folder or URL of pictures, tables and reports")
    parser.add_argument("--config", type=Path, metavar="JOB.yaml", help="job file; other options override its fields")
    parser.add_argument("--wait", action="store_true", help="wait while another run works on the destination")
    for option, field, kind, text in PLACE_OPTIONS:
        parser.add_argument(option, dest=f"job_{field}", type=kind, metavar=field.upper(), help=text)


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which pairs, where to and how."""
    add_place_arguments(parser)
    parser.add_argument(
        "--retry", action="append", choices=("rejected", "failed"), help="look again at pairs rejected, or given up"
    )
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="only pairs with such a key, as in 'ward7/*'"
    )
    for option, field, kind, text in FUSE_OPTIONS:
        parser.add_argument(option, dest=f"job_{field}", type=kind, metavar=field.upper(), help=text)


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Which data, which methods, and what to make of them; the names are fields of an evaluation."""
    parser.add_argument("data", metavar="DATA", help="folder that is a data set, or holds some")
    parser.add_argument("--out", required=True, help="destination folder or URL, not inside DATA")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="only these data sets, such as roadscene tno")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="see below; by default every mode")
    parser.add_argument(
        "--grid", nargs="*", metavar="FIELD=VALUE,...", help="all combinations of values, as methods, with a plot"
    )
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help="columns of the tables (default: the paper's)")
    parser.add_argument("--every", type=int, metavar="N", help="only every N-th pair of each data set")
    parser.add_argument("--output", choices=("clip", "stretch"), help="of pictures (default clip, also for released)")
    parser.add_argument("--also-stretch", action="store_true", default=None, help="measure pictures stretched, too")
    parser.add_argument("--steps", type=int, help=f"diffusion steps, where a method does not say (default: {_STEPS})")
    parser.add_argument("--seed", type=int, help="as in `ddfm fuse`, like the four below")
    parser.add_argument("--prior", help="bundled (default), or a file")
    parser.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--precision", help="float32 (default), bfloat16 or float16")
    parser.add_argument("--batch", type=int, help="pairs of one size that go through the network together")
    parser.add_argument("--sheets", type=int, metavar="N", help="contact sheets per set (default 4; with --grid 0)")
    parser.add_argument("--blind", action="store_true", default=None, help="letters for names, key in sheets/key.json")
    parser.add_argument("--trace", metavar="PAIR", help="show the steps of this pair, KEY or SET/KEY")
    parser.add_argument("--wait", action="store_true", default=None, help="wait while another run works there")
    parser.add_argument("--no-prefect", action="store_true", help="run as plain functions, without a server")


def evaluation_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the evaluation that the command line sets."""
    left_out = ("command", "version", "no_prefect")
    return {name: value for name, value in vars(arguments).items() if name not in left_out and value is not None}


def add_destination(parser: argparse.ArgumentParser) -> None:
    """A destination, by its place or by the job that wrote it."""
    parser.add_argument("destination", nargs="?", metavar="DEST", help="destination folder or URL of earlier runs")
    parser.add_argument("--config", type=Path, metavar="JOB.yaml", help="the job that wrote it, instead of DEST")


def job_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the job that the command line sets."""
    settings: dict[str, Any] = {
        field: value
        for _, field, _, _ in (*PLACE_OPTIONS, *FUSE_OPTIONS)
        if (value := getattr(arguments, f"job_{field}", None)) is not None
    }  # fmt: skip
    for name in ("first", "second", "out"):
        if (value := getattr(arguments, name)) is not None:
            settings[name] = value
    for name in ("retry", "only"):
        if (values := getattr(arguments, name, None)) is not None:
            settings[name] = values
    if arguments.wait:
        settings["wait"] = True
    return settings
