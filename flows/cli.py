"""The command ``ddfm``. Everything heavy is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Fuse whole archives of image pairs (infrared + visible, MRI + CT, MRI + PET, MRI + SPECT) with DDFM,
the denoising diffusion fusion model, using a pre-trained prior and no training on pairs.
"""

EPILOG = """\
examples:
  ddfm demo                                              make a small sample archive, fuse it, show where to look
  ddfm fuse archive/infrared archive/visible --out fused
  ddfm fuse s3://bucket/ct s3://bucket/mri --out s3://bucket/fused --steps 25
  ddfm config --template > job.yaml                      every setting with its meaning
  ddfm fuse --config job.yaml
  ddfm status fused                                      what the runs of a destination did

exit codes: 0 all good, 1 finished with rejected or failed pairs, 2 wrong usage or configuration, 3 the run failed
"""

FUSE_EPILOG = """\
A run over an unchanged archive does nothing; new and changed pairs are fused, a killed run is resumed.
S3: credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
The flow is recorded on the Prefect server at PREFECT_API_URL, or on an embedded one (about 20 s to start);
--no-prefect runs the same stages without it.
"""

# Command line options of `ddfm fuse` that set a field of the job: (option, field, type, help).
FUSE_OPTIONS: tuple[tuple[str, str, type, str], ...] = (
    ("--mode", "mode", str, "paper (default) or released"),
    ("--steps", "steps", int, "diffusion steps (default 100; 25 is about four times faster)"),
    ("--seed", "seed", int, "chooses the noise, with the pair's content (default 0)"),
    ("--batch", "batch", int, "pairs of one size that go through the network together (default 4)"),
    ("--prior", "prior", str, "bundled (default), or a guided-diffusion .pt or .safetensors file"),
    ("--device", "device", str, "auto (default), cpu, cuda or cuda:N"),
    ("--precision", "precision", str, "of the network: float32 (default), bfloat16 or float16"),
    ("--output", "output", str, "clip, stretch or none (default: clip; released: stretch)"),
    ("--bit-depth", "bit_depth", int, "of the fused PNG: 8 (default) or 16"),
    ("--register", "register", str, "none (default) rejects pairs of different sizes, resize scales the first"),
    ("--pairs", "pairs", str, "a CSV or Parquet table of pairs instead of FIRST and SECOND"),
    ("--method", "method", str, "name of this configuration, a folder of the destination (default: the mode)"),
    ("--dataset", "dataset", str, "name of the data set, a column of the result table"),
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
        description="Fuse every pair of two folders (paired by stem), of a table, or of a job file.",
        epilog=FUSE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fuse.add_argument("first", nargs="?", metavar="FIRST", help="folder or URL of infrared, CT, PET or SPECT images")
    fuse.add_argument("second", nargs="?", metavar="SECOND", help="folder or URL of visible or MRI images")
    fuse.add_argument("--out", help="destination folder or URL of pictures, tables and reports")
    fuse.add_argument("--config", type=Path, metavar="JOB.yaml", help="job file; other options override its fields")
    fuse.add_argument("--no-prefect", action="store_true", help="run the stages as plain functions, without a server")
    fuse.add_argument("--retry-rejected", action="store_true", help="look again at pairs rejected before")
    for option, field, kind, text in FUSE_OPTIONS:
        fuse.add_argument(option, dest=f"job_{field}", type=kind, metavar=field.upper(), help=text)

    config = commands.add_parser("config", help="write or explain a job file")
    action = config.add_mutually_exclusive_group(required=True)
    action.add_argument("--template", action="store_true", help="print a commented job file")
    action.add_argument("--check", type=Path, metavar="JOB.yaml", help="say what a job file would do, or what is wrong")

    status = commands.add_parser("status", help="what the runs of a destination did")
    status.add_argument("destination", metavar="DEST", help="destination folder or URL of earlier runs")

    demo = commands.add_parser("demo", help="make a small sample archive, fuse it, show where to look")
    demo.add_argument("--out", type=Path, default=Path("ddfm-demo"), help="folder to make (default: ./ddfm-demo)")
    demo.add_argument("--steps", type=int, default=25, help="diffusion steps (default 25)")
    demo.add_argument("--prefect", action="store_true", help="run as Prefect flows, as `ddfm fuse` does")
    return parser


def job_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the job that the command line sets."""
    settings: dict[str, Any] = {
        field: value
        for _, field, _, _ in FUSE_OPTIONS
        if (value := getattr(arguments, f"job_{field}")) is not None
    }  # fmt: skip
    for name in ("first", "second", "out"):
        if (value := getattr(arguments, name)) is not None:
            settings[name] = value
    if arguments.retry_rejected:
        settings["retry_rejected"] = True
    return settings


def prepare_prefect() -> None:
    """Settings that an embedded server needs to start quietly and offline; what the user set stays."""
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # What ends a flow is told in one sentence by the command itself, without the engine's traceback.
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
    }.items():
        os.environ.setdefault(name, value)


def run_fuse(arguments: argparse.Namespace) -> int:
    """``ddfm fuse``."""
    from tasks.job import make_job, read_job

    overrides = job_settings(arguments)
    job = read_job(_read_text(arguments.config), overrides) if arguments.config else make_job(overrides)
    if not arguments.no_prefect:
        prepare_prefect()
    from flows.terminal import fuse_on_terminal

    return fuse_on_terminal(job, prefect=not arguments.no_prefect)


def run_config(arguments: argparse.Namespace) -> int:
    """``ddfm config``."""
    from tasks.job import job_template, read_job

    if arguments.template:
        print(job_template())
        return 0
    job = read_job(_read_text(arguments.check))
    defaults = {name: info.default for name, info in type(job).model_fields.items()}
    print(f"{arguments.check} is a valid job.")
    for name, value in job.model_dump().items():
        origin = "" if value == defaults[name] else "   (set by the file)"
        print(f"  {name:16} {value}{origin}")
    return 0


def run_status(arguments: argparse.Namespace) -> int:
    """``ddfm status``."""
    from flows.terminal import print_status

    return print_status(arguments.destination)


def run_demo(arguments: argparse.Namespace) -> int:
    """``ddfm demo``."""
    if arguments.prefect:
        prepare_prefect()
    from flows.demo import demo

    return demo(arguments.out, arguments.steps, prefect=arguments.prefect)


def _read_text(path: Path) -> str:
    from tasks.codes import ConfigurationError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error}); name a YAML file") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        from importlib.metadata import version

        print(version("ddfm-pipeline"))
        return 0
    if arguments.command is None:
        parser.print_help()
        return 2
    run = {"fuse": run_fuse, "config": run_config, "status": run_status, "demo": run_demo}[arguments.command]
    from tasks.codes import ConfigurationError

    try:
        return run(arguments)
    except ConfigurationError as error:
        print(f"ddfm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddfm: stopped; run the same command again to go on", file=sys.stderr)
        return 130


def run() -> None:
    """The installed command: :func:`main`, leaving with its exit code whatever native libraries do on their way out.

    Thread pools of torch and pyarrow were seen to abort the process in their destructors, after all was written and
    said; a scheduler would take that for a failed run. So the process ends right after Python's own exit functions.
    """
    code = 3

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    # Registered first, so called last: after Prefect has stopped its embedded server.
    atexit.register(leave)
    try:
        code = main()
    except SystemExit as stop:  # argparse, after --help or at a wrong option
        code = stop.code if isinstance(stop.code, int) else 0


if __name__ == "__main__":
    run()
