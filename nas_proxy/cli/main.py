"""The command line.

Exit status: 0 done, 2 the input is wrong, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP (its terminal is
gone), 1 anything else.
"""

from __future__ import annotations

import errno
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from nas_proxy import __version__
from nas_proxy.cli._configs import load_checked
from nas_proxy.cli.backbones import backbones_command, pretrain_command
from nas_proxy.cli.check import check_command
from nas_proxy.cli.cluster import cluster_command
from nas_proxy.cli.examples import example_command
from nas_proxy.cli.init import init_command
from nas_proxy.cli.inspecting import inspect_command
from nas_proxy.cli.interchange import export_proxy, import_proxy
from nas_proxy.cli.lists import list_command
from nas_proxy.cli.new import new_command
from nas_proxy.cli.plan import plan_command
from nas_proxy.cli.tracking import track_command
from nas_proxy.cli.ui import ui_command
from nas_proxy.errors import UserError, first_line
from nas_proxy.study.console import ConsoleDisplay

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` should not
    from nas_proxy.evaluate_proxy.result import ProxyAccuracy, ProxyReplay
    from nas_proxy.statistics.accuracy import SeedMean

_USERS_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file is in the way",
    errno.EISDIR: "a folder is in the way",
}


_OFFSET = 128  # of a signal's number in an exit status, as shells count it
# What ends a command in order: SIGTERM, as job schedulers send it, and that the terminal is gone.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

_console = Console(stderr=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nas-proxy")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Neural architecture search on distilled proxy data sets, with proof of their ranking.

    CONFIG is a YAML file; any of its values can be replaced on the command line, as in
    `nas-proxy run configs/quickstart.yaml search.n_trials=50`.
    """
    context.obj = {"debug": debug}
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=_console, show_time=False, show_path=False)],
    )


def _stage_command(name: str, summary: str) -> None:
    @cli.command(name=name, help=summary)
    @click.argument("config", type=click.Path(path_type=Path))
    @click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
    @click.option("--force", is_flag=True, help="Discard this stage's earlier result, repeat it.")
    @click.option("-q", "--quiet", is_flag=True, help="Show warnings and the verdict alone.")
    @click.option("-v", "--verbose", is_flag=True, help="Show what happens behind the scenes too.")
    def command(
        config: Path, overrides: tuple[str, ...], force: bool, quiet: bool, verbose: bool
    ) -> None:
        if quiet and verbose:
            raise UserError("--quiet and --verbose exclude each other: pass one of them")
        logging.getLogger("nas_proxy").setLevel(logging.DEBUG if verbose else logging.WARNING)
        loaded = load_checked(config, overrides)
        from nas_proxy.study.pipeline import run_pipeline

        last: Any = "report" if name == "run" else name
        display = ConsoleDisplay(_console, quiet=quiet)
        run_pipeline(loaded, display, last=last, force=force)
        if last == "report":
            from nas_proxy.study.conclusion import conclusion

            for line in conclusion(loaded.layout):
                click.echo(line)


_stage_command(
    "run",
    "Distil, calibrate, search, validate, retrain, report; continue where an earlier run stopped.",
)
_stage_command("distill", "Make the proxy data set.")
_stage_command("calibrate", "Find the cheapest recipe whose ranking can be trusted.")
_stage_command("search", "Search the space on the proxy data set, which is made first if missing.")
_stage_command("validate", "Judge the ranking, after what it needs has been done.")
_stage_command("retrain", "Train the best architectures fully and write them as model files.")
_stage_command("report", "Write the report again, after what it needs has been done.")


@cli.command(name="evaluate-proxy")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--task",
    type=click.Choice(["accuracy", "replay"]),
    default="accuracy",
    show_default=True,
    help="accuracy: train fixed networks on FILE. replay: keep it as a learner's memory.",
)
@click.option("--force", is_flag=True, help="Discard the earlier result, repeat it.")
def evaluate_proxy_command(
    file: Path, config: Path, overrides: tuple[str, ...], task: Any, force: bool
) -> None:
    """Find out what the proxy data set FILE is worth on the real images of CONFIG.

    The section evaluate_proxy of CONFIG says which networks are trained on it and how; they are
    tested on real images, beside random ones with the same labels and all of the real ones.
    """
    loaded = load_checked(config, overrides)
    from nas_proxy.evaluate_proxy.result import ProxyAccuracy
    from nas_proxy.study.pipeline import evaluate_proxy

    result = evaluate_proxy(loaded, ConsoleDisplay(_console), file, task, force=force)
    if isinstance(result, ProxyAccuracy):
        Console().print(_accuracy_table(result))
    else:
        Console().print(_replay_table(result))
    folder = loaded.layout.evaluate_proxy(result.proxy_dataset.id) / task
    click.echo(f"figures and all numbers: {folder.resolve()}")


def _accuracy_table(result: ProxyAccuracy) -> Table:
    networks = result.networks
    conditions = list(dict.fromkeys(name for n in networks for name in n.accuracies))
    table = Table(
        title=f"test accuracy in %, mean and standard error of {result.num_seeds} seeds",
        caption="HLR, hard-label recovery: full data minus hard labels. IOR, improvement over "
        f"random: as it is minus random images with the same labels. {result.base_rate}".rstrip(),
    )
    table.add_column("network", ratio=1)
    for column in (*conditions, "HLR", "IOR"):
        table.add_column(column, justify="right", min_width=6)
    for network in networks:
        figures = [network.accuracies.get(name) for name in conditions]
        figures += [network.hard_label_recovery, network.improvement_over_random]
        table.add_row(network.network, *map(_percent, figures))
    return table


def _replay_table(result: ProxyReplay) -> Table:
    table = Table(
        "memory", "accuracy at the end", "forgetting", title=f"{result.num_tasks} tasks, in %"
    )
    for memory in result.memories:
        table.add_row(memory.name, _percent(memory.final_accuracy), _percent(memory.forgetting))
    return table


def _percent(figure: SeedMean | None) -> str:
    """A mean and its standard error."""
    if figure is None:
        return "failed"
    error = figure.standard_error
    return f"{100 * figure.mean:.1f}" + ("" if error is None else f" ±{100 * error:.1f}")


cli.add_command(init_command)
cli.add_command(plan_command)
cli.add_command(track_command)
cli.add_command(ui_command)
cli.add_command(inspect_command)
cli.add_command(list_command)
cli.add_command(example_command)
cli.add_command(new_command)
cli.add_command(check_command)
cli.add_command(cluster_command)
cli.add_command(import_proxy)
cli.add_command(export_proxy)
cli.add_command(backbones_command)
cli.add_command(pretrain_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; errors become one paragraph on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What is ignored stays so: nohup lets a command outlive its terminal.
    before = {n: h for n in _ENDING if (h := signal.getsignal(n)) is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, _terminate)
        _run(words)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Terminated(KeyboardInterrupt):
    """Another signal than Ctrl-C's: what that puts in order is put in order too."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated(number)


def _run(words: list[str]) -> None:
    """Run the command line and exit."""
    try:
        status = cli.main(args=words, prog_name="nas-proxy", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt) as error:
        # click makes its own error of what is raised within a command.
        cause = error.__cause__ or error
        number = cause.args[0] if isinstance(cause, _Terminated) else signal.SIGINT
        _fail("stopped; the same command continues where it was", _OFFSET + number)
    except SystemExit as error:  # nothing of nas_proxy raises it here
        last = traceback.extract_tb(error.__traceback__)[-1]
        if last.filename == click.core.__file__:  # as `| head` does, when it has read enough
            sys.exit(_OFFSET + signal.SIGPIPE)
        _fail(
            f"code of a plug-in called sys.exit({error.code!r}) at {last.filename}, line "
            f"{last.lineno}; raise an error that says what is wrong instead",
            2,
        )
    except Exception as error:  # noqa: BLE001 - the last place that can turn it into a sentence
        if "--debug" in words:
            traceback.print_exc()
        message, status = _explain(error)
        _fail(message, status)
    sys.exit(status if isinstance(status, int) else 0)


def _explain(error: BaseException) -> tuple[str, int]:
    """One sentence for an error, and the exit status."""
    if isinstance(error, UserError):
        return str(error), 2
    cause: BaseException | None = error
    while cause is not None:  # a library may have wrapped the system's error
        if isinstance(cause, OSError) and cause.errno in _USERS_ERRNOS:
            place = cause.filename2 or cause.filename  # of a file that was to be renamed: as what
            where = f" at {place}" if place else ""
            return (
                f"{_USERS_ERRNOS[cause.errno]}{where}; nothing that was finished is lost: mend it "
                "or set results to another folder, and the same command continues",
                2,
            )
        cause = cause.__cause__ or cause.__context__
    from nas_proxy.devices import is_out_of_memory

    if is_out_of_memory(error):
        return (
            f"the memory is full ({first_line(error)}); smaller images (data.image_size), batches "
            "(train.batch_size) or fewer search.num_workers need less, and the same command "
            "continues",
            2,
        )
    kind = type(error).__name__
    return f"unexpected {kind}: {error} (nas-proxy --debug ... shows where)", 1


def _fail(message: str, status: int) -> None:
    click.echo(f"nas-proxy: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
