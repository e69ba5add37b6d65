"""The command ``ddfm``. Everything heavy is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import argparse
import atexit
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.arguments import build_parser, evaluation_settings, job_settings

if TYPE_CHECKING:
    from tasks.job import Job


def prepare_prefect() -> None:
    """Settings of a run on the configured or the embedded server; what the user set stays."""
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # What ends a flow is told in one sentence by the command itself, without the engine's traceback.
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        # A server that is set up as deployments/automations.py says ends runs that are silent for three times as long.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }.items():
        os.environ.setdefault(name, value)


def run_fuse(arguments: argparse.Namespace) -> int:
    """``ddfm fuse``."""
    job = job_of(arguments)
    if not arguments.no_prefect:
        prepare_prefect()
    from flows.terminal import fuse_on_terminal

    return fuse_on_terminal(job, prefect=not arguments.no_prefect)


def run_config(arguments: argparse.Namespace) -> int:
    """``ddfm config``."""
    from tasks.job_file import job_template, read_job

    if arguments.template:
        print(job_template())
        return 0
    job = read_job(_read_text(arguments.check))
    defaults = {name: info.get_default(call_default_factory=True) for name, info in type(job).model_fields.items()}
    print(f"{arguments.check} is a valid job.")
    given = job.model_dump()
    for name, value in job.resolved().model_dump().items():
        origin = "" if given[name] == defaults[name] else "   (set by the file)"
        print(f"  {name:16} {value}{origin}")
    return 0


def job_of(arguments: argparse.Namespace) -> Job:
    """The job of the command line, with or without a file."""
    from tasks.job_file import make_job, read_job

    overrides = job_settings(arguments)
    return read_job(_read_text(arguments.config), overrides) if arguments.config else make_job(overrides)


def destination_of(arguments: argparse.Namespace) -> str:
    """The destination of a command, reached as its job says."""
    from tasks.codes import ConfigurationError

    if (arguments.destination is None) == (arguments.config is None):
        raise ConfigurationError("give either a destination or --config JOB.yaml")
    if arguments.config is None:
        destination: str = arguments.destination
        return destination
    from flows.places import use_places
    from tasks.job_file import read_job

    job = read_job(_read_text(arguments.config))
    use_places(job.places)
    return job.out


def run_index(arguments: argparse.Namespace) -> int:
    """``ddfm index``."""
    from flows.maintenance import show_plan

    return show_plan(job_of(arguments))


def run_status(arguments: argparse.Namespace) -> int:
    """``ddfm status``."""
    from flows.terminal import print_status

    return print_status(destination_of(arguments))


def run_report(arguments: argparse.Namespace) -> int:
    """``ddfm report``."""
    from tasks.job_file import read_job
    from tasks.report.request import make_request

    settings: dict[str, object] = {"out": destination_of(arguments)}
    if arguments.config is not None:
        job = read_job(_read_text(arguments.config))
        settings |= {"places": job.places, "method": job.method_name}
    given = {"run_id": arguments.run, "method": arguments.method, "pictures": arguments.pictures}
    request = make_request(settings | {name: value for name, value in given.items() if value is not None})
    from flows.report_terminal import report_on_terminal

    return report_on_terminal(request)


def run_verify(arguments: argparse.Namespace) -> int:
    """``ddfm verify``."""
    from flows.maintenance import verify

    return verify(destination_of(arguments), arguments.deep, arguments.repair)


def run_prune(arguments: argparse.Namespace) -> int:
    """``ddfm prune``."""
    from flows.maintenance import prune_archive

    return prune_archive(job_of(arguments), arguments.yes, arguments.most_share)


def run_evaluate(arguments: argparse.Namespace) -> int:
    """``ddfm evaluate``."""
    from tasks.evaluation.evaluation import make_evaluation

    evaluation = make_evaluation(evaluation_settings(arguments))
    if not arguments.no_prefect:
        prepare_prefect()
    from flows.evaluate_terminal import evaluate_on_terminal

    return evaluate_on_terminal(evaluation, prefect=not arguments.no_prefect)


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
    run = {
        "fuse": run_fuse, "index": run_index, "config": run_config, "status": run_status, "report": run_report,
        "verify": run_verify, "prune": run_prune, "evaluate": run_evaluate, "demo": run_demo,
    }[arguments.command]  # fmt: skip
    from tasks.codes import ConfigurationError
    from tasks.results import ReconcileError
    from tasks.storage import StorageError

    try:
        return run(arguments)
    except ConfigurationError as error:
        print(f"ddfm: {error}", file=sys.stderr)
        return 2
    except (StorageError, ReconcileError) as error:
        print(f"ddfm: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("ddfm: stopped; run the same command again to go on", file=sys.stderr)
        return 130


def run() -> None:
    """The installed command: :func:`main`, leaving with its exit code whatever native libraries do on their way out.

    Thread pools of torch and pyarrow were seen to abort the process in their destructors, after all was written and
    said; a scheduler would take that for a failed run. So the process ends right after Python's own exit functions.
    """
    code = 3
    # A scheduler's request to stop ends a run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

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
