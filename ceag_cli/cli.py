"""The command line: parse, call one stage, print what the report says, map errors to exit codes.

Flags are made from the declarations in ``options``. torch is imported when a stage starts, not
before, so that ``--help`` answers at once.

Exit codes: 0 satisfied or done, 1 violation shown, 2 bad usage, configuration or input,
3 nothing was audited, 4 internal error, 130 interrupted.
"""

from __future__ import annotations

import errno
import inspect
import itertools
import os
import sys
import tempfile
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ceag_cli.errors import CeagError, Ended, Interrupted, OutputError
from ceag_cli.inert import as_line, shortened
from ceag_cli.interruptions import EXIT_CODE, was_told_to_end
from ceag_cli.options import (
    COMMANDS,
    DATA,
    EMPTY,
    METHOD,
    MODEL,
    OUTPUT,
    PRUNING,
    RUN,
    TRAINING,
    AuditOptions,
    Command,
    flag,
    parse,
    value_type,
)
from ceag_cli.progress import Update
from ceag_cli.recipe import named_as_given, resolve

UsageError: type[Exception] = typing.cast(Any, typer.BadParameter.__base__)
"""Of click, or of the copy that newer versions of Typer have in its place."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a quota, a file that may grow no further."""


@contextmanager
def usage_errors(context: Any = None) -> Iterator[None]:
    """Say what is wrong with a command line in one line, as all other errors are said."""
    try:
        yield
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            raise
        found: Any = error
        where = found.ctx or context
        command = f"ceag {where.info_name}" if where and where.parent else "ceag"
        text = shortened(as_line(found.format_message().rstrip(".")))
        typer.echo(
            f"error: {command}: {text[:1].lower()}{text[1:]}; '{command} --help' says what there "
            "is",
            err=True,
        )
        raise typer.Exit(2) from None


SHARED = ("dense", "prune", "mitigate", "audit")
"""The commands that several processes carry out together."""


class Program(TyperGroup):
    """All commands; what is wrong with their command lines is said in one line."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        """Read what stands before the command."""
        with usage_errors():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        """Read and carry out the command."""
        with usage_errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; most of them are for one process only."""
        name, command, rest = super().resolve_command(ctx, args)
        if name not in SHARED and _is_one_of_many():
            typer.echo(
                f"error: ceag {name} runs in one process; start it without torchrun (with it run "
                f"{', '.join(SHARED)})",
                err=True,
            )
            raise typer.Exit(2)
        return name, command, rest


HEADINGS = ("Arguments", METHOD, PRUNING, DATA, MODEL, TRAINING, RUN, OUTPUT, "Options")
"""The order in which options are listed: what the command is about comes first."""


def heading(parameter: Any) -> str:
    """What an option is listed under."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or "Options"


def by_heading(parameters: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Options in the order of their headings, those of a command alone last."""
    known = {name: place for place, name in enumerate(HEADINGS)}
    ordered = sorted(parameters, key=lambda p: (known.get(heading(p), len(known)), heading(p)))
    for name, members in itertools.groupby(ordered, heading):
        yield name, list(members)


class NoneEmpty(TyperCommand):
    """A command that refuses empty values, before anything is made of them.

    In CI they come from variables that are not set, and would count as not given.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List the options for ``--help``, by heading."""
        for name, members in by_heading(self.get_params(ctx)):
            records = [record for p in members if (record := p.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read a command line."""
        with usage_errors(ctx):
            given, _, order = self.make_parser(ctx).parse_args(list(args))
        for parameter in order if not ctx.resilient_parsing else ():  # else it is completed
            values = given.get(parameter.name)
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, str) and not value.strip():
                    name = next((o for o in parameter.opts if o.startswith("--")), "")
                    if parameter.param_type_name == "argument":
                        name = parameter.metavar or parameter.name.upper()
                    typer.echo(f"error: {name}: {EMPTY}", err=True)
                    raise typer.Exit(2)
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=Program,
    name="ceag",
    help="Prune image classifiers without letting the pruning harm one group more than the others.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_registered = partial(app.command, cls=NoneEmpty, rich_help_panel="Commands")

SECONDS_BETWEEN_LINES = 10.0
"""How often a log without a terminal hears of progress."""


class Terminal:
    """Reporter on stderr: plain lines, and bars where there is a terminal."""

    def say(self, text: str) -> None:
        """A line of information."""
        typer.echo(as_line(text), err=True)

    def warn(self, text: str) -> None:
        """A line that the user should not miss."""
        typer.echo(as_line(f"warning: {text}"), err=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Update]:
        """A progress bar; without a terminal, a line now and then."""
        title = as_line(title)
        if not sys.stderr.isatty():
            yield self._lines(title, total)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Remaining(compact=True),
            TextColumn("{task.fields[words]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(title, total=total, words="")
            yield lambda done, words: progress.update(task, completed=done, words=words)

    def _lines(self, title: str, total: int) -> Update:
        last = time.monotonic()

        def update(done: int, words: str) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                typer.echo(f"{title}: {done} of {total} {words}".rstrip(), err=True)

        return update


AFTER_INTERRUPTION = {
    "dense": "the same command with --resume continues",
    "prune": "the same command with --resume continues",
    "mitigate": "the same command with --resume continues",
    "sweep": "the same command continues",
    "audit": "there is no verdict; the same command begins anew",
    "exemplars": "the same command goes on with the models that are still to answer",
    "explain": "the same command begins anew",
    "export": "the same command begins anew",
    "pack": "the same command begins anew",
    "unpack": "the same command begins anew",
}
"""What to do when a command was interrupted, where there is anything to say."""


def _what_then(command: str) -> list[str]:
    return [AFTER_INTERRUPTION[command]] if command in AFTER_INTERRUPTION else []


def _is_one_of_many() -> bool:
    """Whether a launcher has started several processes, of which this is one."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    from ceag_cli.distributed import started_by_launcher

    return started_by_launcher()


def _has_lost_others(error: Exception) -> bool:
    if not _is_one_of_many():
        return False
    from ceag_cli.distributed import is_lost_connection

    return is_lost_connection(error)


@contextmanager
def exit_codes(command: str = "") -> Iterator[None]:
    """Turn errors into messages and exit codes; a crash never looks like a verdict."""
    try:
        yield
    except CeagError as error:
        _say_problems(error.problems)
        raise typer.Exit(2) from None
    except (KeyboardInterrupt, Interrupted) as error:
        said = str(error) or "interrupted"
        typer.echo("; ".join([said, *_what_then(command)]), err=True)
        raise typer.Exit(EXIT_CODE) from None
    except Ended as error:
        typer.echo("; ".join([as_line(f"error: {error}"), *_what_then(command)]), err=True)
        raise typer.Exit(EXIT_CODE) from None
    except typer.Exit:
        raise
    except Exception as error:
        if was_told_to_end():  # processes that decode may have been told so, too, and be missed
            typer.echo("; ".join(["interrupted", *_what_then(command)]), err=True)
            raise typer.Exit(EXIT_CODE) from None
        if _has_lost_others(error):
            gone = "another process of the run has ended or cannot be reached"
            typer.echo("; ".join([f"error: {gone}", *_what_then(command)]), err=True)
            raise typer.Exit(EXIT_CODE) from None
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            # What ceag writes says so by itself; libraries use files of their own for a moment.
            place = error.filename or f"a file of a moment in {tempfile.gettempdir()}"
            _say_problems([f"{place}: cannot be written: {error.strerror}"])
            raise typer.Exit(2) from None
        for line in traceback.format_exc().splitlines():
            typer.echo(as_line(line), err=True)
        typer.echo("internal error of ceag; please report the lines above", err=True)
        raise typer.Exit(4) from None


def _say_problems(problems: list[str]) -> None:
    """One line for each, whatever names and values it quotes."""
    for problem in problems:
        typer.echo(f"error: {shortened(as_line(problem))}", err=True)


def _written(value: Any) -> str:
    """A default as it would be given."""
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _one_of(*values: str) -> Callable[[str], list[str]]:
    """Completes a value in a shell."""

    def completed(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return completed


def _parameter(command: type[Command], name: str) -> inspect.Parameter:
    """The command-line parameter of an option. Its default is "not given"."""
    field = command.__dataclass_fields__[name]
    kind = value_type(command, name)
    limits = field.metadata
    shape = None
    if typing.get_origin(kind) is tuple:
        kind = list[str] if limits["repeatable"] else str  # else lists are written a,b,c
    elif kind in (int, float):  # read where the numbers of a recipe are, with the same errors
        shape, kind = f"<{kind.__name__}>", str
    help_text = limits["help"]
    if limits["choices"]:
        help_text += f" One of {', '.join(limits['choices'])}."
    if limits["positional"]:
        info = typer.Argument(help=help_text, show_default=False, metavar="FILE")
    else:
        defaults = []
        if limits["shown"] or not (field.default is False or field.default in (None, ())):
            defaults.append(limits["shown"] or _written(field.default))
        has_preset = limits["paper"] not in (None, field.default)
        if has_preset and "paper" in command.__dataclass_fields__:
            preset = limits["paper"]
            preset = "on" if preset is True else _written(preset)
            defaults.append(f"with --paper: {preset}")
        if defaults:
            help_text += f" [default: {'; '.join(defaults)}]"
        names = [flag(name), *limits["flags"]]
        if kind is bool:  # so that a flag can also take back what a recipe says
            names = [f"{flag(name)}/--no-{flag(name)[2:]}"]
        info = typer.Option(
            *names,
            help=help_text,
            show_default=False,
            rich_help_panel=limits["panel"],
            metavar=shape,
            autocompletion=_one_of(*limits["choices"]) if limits["choices"] else None,
        )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, info],
    )


def _command(
    name: str, examples: str, brief: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``run(options, config)`` as a command with the flags of its options class.

    Args:
        name: What it is called.
        examples: The last paragraph of its help.
        brief: What ``ceag --help`` says of it, where the first sentence of its help is too long.
    """
    options_class = COMMANDS[name]
    own = options_class.__annotations__

    def register(run: Callable[..., None]) -> Callable[..., None]:
        def command(*, config: str | None = None, **given: Any) -> None:
            with exit_codes(name):
                # A flag that may be repeated and is not there arrives as an empty list.
                known = {name: value for name, value in given.items() if value != []}
                options = resolve(options_class, known, config)
                with named_as_given(options):
                    run(options)

        config_info = typer.Option(
            "--config", "-c", help="YAML recipe with any of these options.", show_default=False
        )
        parameters = [
            *(
                _parameter(options_class, name)
                for name, field in sorted(  # its own first, then those that others have, too
                    options_class.__dataclass_fields__.items(), key=lambda item: item[0] not in own
                )
                if field.metadata["read"] is None
            ),
            inspect.Parameter(
                "config",
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[str | None, config_info],
            ),
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        help_text = f"{inspect.getdoc(options_class)}\n\n{examples}"
        _registered(name, help=help_text, short_help=brief)(command)
        return run

    return register


def _check_format(name: str, what: str = "") -> None:
    if name not in ("text", "json"):
        raise CeagError(f"--format: '{name}' is not one of text, json{what}")


def _print(text: str) -> None:
    """Write a result to stdout.

    Raises:
        OutputError: It cannot be written, so that what a gate rests on would be lost.
    """
    if sys.stdout is None:  # closed by who called: nobody wants it
        return
    try:
        typer.echo(text, nl=False)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not be tried once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # as of head(1), which has seen enough
            raise OutputError(f"stdout: cannot be written: {error.strerror or error}") from None


def _show(lines: list[str], document: Any, as_json: bool) -> None:
    if as_json:
        from ceag_cli.formats import as_json as encoded

        _print(f"{encoded(document)}\n")
    else:
        _print("".join(f"{as_line(line)}\n" for line in lines))


def _show_stage(name: str, options: Command, stage: Callable[..., Any]) -> Any:
    """Run a stage that writes a model, and print its result."""
    from importlib.metadata import version

    from ceag_cli import stagereport
    from ceag_cli.runs import AlreadyFinished

    try:
        result = stage(options, Terminal())
    except AlreadyFinished as finished:
        typer.echo(f"{finished}: the run has finished already; nothing to do", err=True)
        return None
    lines = getattr(stagereport, f"{name}_lines")(result)
    document = stagereport.result_document(name, version("ceag"), options.seed, result)
    _show(lines, document, options.format == "json")
    return result


@_command("dense", "Example: ceag dense --groups labels.csv --model resnet18")
def _dense(options: Command) -> None:
    from ceag_cli import stages

    _show_stage("dense", options, stages.dense)


@_command("prune", "Example: ceag prune model.safetensors --sparsity 0.9")
def _prune(options: Command) -> None:
    from ceag_cli import stages

    _show_stage("prune", options, stages.prune)


@_command(
    "mitigate",
    "Example: ceag mitigate --groups labels.csv --eps 0.02",
    "Fine-tune so that no group loses more than eps beyond the rest.",
)
def _mitigate(options: Command) -> None:
    from ceag_cli import stages

    result = _show_stage("mitigate", options, stages.mitigate)
    if result is not None and not result.satisfied and getattr(options, "strict", False):
        raise typer.Exit(1)


@_command(
    "audit",
    "Example: ceag audit (exit code 0: gate satisfied, 1: FAIL, 3: not enough is decided)",
    "Compare a dense with a sparse model by group; a gate for CI.",
)
def _audit(options: Command) -> None:
    if getattr(options, "plan", False):
        _show_plan(options)
        return
    from ceag_cli import stages
    from ceag_cli.results import NotWritten

    try:
        found = stages.run_audit(options, Terminal())  # type: ignore[arg-type]
    except NotWritten as error:
        _print_audit(error.audit, options.format)
        raise
    _print_audit(found, options.format)
    raise typer.Exit(found.result.exit_code)


def _print_audit(audit: Any, name: str) -> None:
    if name == "text" and sys.stdout is not None and sys.stdout.isatty():
        from ceag_cli.plaintext import console_of, print_audit

        print_audit(audit, console_of())
    else:
        from ceag_cli.formats import render

        _print(render(audit, name))


@_command(
    "explain",
    "Example: ceag explain (describes; the exit code is no verdict)",
    "Describe by group why pruning costs what it costs.",
)
def _explain(options: Command) -> None:
    from ceag_cli import explaining
    from ceag_cli.explanationformats import render
    from ceag_cli.explanations import ExplanationNotWritten

    try:
        found = explaining.explain(options, Terminal())  # type: ignore[arg-type]
    except ExplanationNotWritten as error:
        _print(render(error.explained, options.format))
        raise
    _print(render(found, options.format))


@_command(
    "exemplars",
    "Example: ceag exemplars seed-*/model.pruned.safetensors (describes; the exit code is no "
    "verdict)",
    "Find the images that dense and sparse models answer differently.",
)
def _exemplars(options: Command) -> None:
    from ceag_cli import identifying
    from ceag_cli.pieformats import render
    from ceag_cli.pies import ExemplarsNotWritten

    try:
        found = identifying.exemplars(options, Terminal())  # type: ignore[arg-type]
    except ExemplarsNotWritten as error:
        _print(render(error.exemplars, options.format))
        raise
    _print(render(found, options.format))


@_registered("schema")
def _schema(
    command: Annotated[
        str,
        typer.Argument(
            help="audit, explain, exemplars or sweep.",
            metavar="COMMAND",
            autocompletion=_one_of("audit", "explain", "exemplars", "sweep"),
        ),
    ] = "audit",
) -> None:
    """Print the JSON schema of a command's JSON document.

    Example: ceag schema explain
    """
    with exit_codes():
        from ceag_cli.schemas import schema

        _print(schema(command))


@_command(
    "export",
    "Example: ceag export model.pruned.safetensors",
    "Write a model as ONNX, which other runtimes run.",
)
def _export(options: Command) -> None:
    from importlib.metadata import version

    from ceag_cli import exports, stagereport

    found = exports.export(options, Terminal())  # type: ignore[arg-type]
    document = stagereport.result_document("export", version("ceag"), options.seed, found)
    _show(exports.lines(found), document, options.format == "json")


TextOrJson = Annotated[
    str,
    typer.Option("--format", help="text or json.", autocompletion=_one_of("text", "json")),
]
"""How commands without a class of options print."""


@_registered("sweep", short_help="Run criteria x methods x sparsities x seeds from one recipe.")
def _sweep(
    recipe: Annotated[Path, typer.Argument(help="YAML: seeds, sparsities, methods and options.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write. [default: the recipe's name in the current folder]",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Runs at a time; each gets its share of the cores.")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do runs again whose options have changed.")
    ] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="Run nothing; show what is there already.")
    ] = False,
    output_format: TextOrJson = "text",
) -> None:
    """Run criteria x methods x sparsities x seeds from one recipe, and say how far one can prune.

    Prints tables and the sparsest setting that passes the audit; sweep.html in the folder has more.
    What is done already is not done again, so the same line continues a sweep that was stopped.

    Example: ceag sweep recipe.yaml --jobs 2
    """
    with exit_codes("sweep"):
        from ceag_cli import sweep, sweepreport
        from ceag_cli.sweepdocument import as_document

        _check_format(output_format)
        found = sweep.run_sweep(
            recipe,
            output,
            jobs=jobs,
            overwrite=overwrite,
            collect=collect,
            reporter=Terminal(),
        )
        _show(sweepreport.lines(found), as_document(found), output_format == "json")


@_registered("info", short_help="Show a file's lineage, architecture, sparsity, eps and groups.")
def _info(
    file: Annotated[Path, typer.Argument(help="A .safetensors file written by ceag.")],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Also list every tensor with its zeros.")
    ] = False,
    output_format: TextOrJson = "text",
) -> None:
    """Show a file's lineage, architecture, sparsity, eps, groups and seed.

    Example: ceag info model.mitigated.safetensors
    """
    with exit_codes():
        from ceag_cli import info

        _check_format(output_format)
        found = info.describe_file(file)
        lines = info.lines(found)
        if tensors:
            from ceag_cli.stagereport import tensor_lines
            from ceag_cli.tensors import describe_tensors

            by_tensor = describe_tensors(file)
            found["by_tensor"] = [asdict(item) | {"sparsity": item.sparsity} for item in by_tensor]
            lines += ["", *tensor_lines(by_tensor)]
        _show(lines, found, output_format == "json")


def _show_plan(options: Command) -> None:
    from importlib.metadata import version

    from ceag_cli import planning, planreport

    _check_format(options.format, " for a plan")
    found = planning.plan_audit(options, Terminal())  # type: ignore[arg-type]
    document = planreport.document(found, version("ceag"))
    _show(planreport.lines(found), document, options.format == "json")


def _without_answers(options: AuditOptions) -> AuditOptions:
    """The options of an audit of a CSV in place of the answers that the policy may name."""
    found = replace(options, predictions=None)
    found.come_from(options.origins)
    return found


WRITING = "Writing the CSV (with --from)"
_WRITING: dict[str, Any] = {"rich_help_panel": WRITING, "show_default": False}


def _warn_of_idle(given: dict[str, Any], where: str) -> None:
    for name, value in given.items():
        if value is not None:
            Terminal().warn(f"{flag(name)} has no effect {where}")


def _write_groups(layout: str, folder: str | None, given: dict[str, Any], as_json: bool) -> None:
    """Write a groups CSV from a published data set, and say what was written."""
    from ceag_cli import conversion

    if folder is None:
        raise CeagError(f"--from {layout} needs the folder of the data set")
    for name in ("test_share", "val_share"):
        try:
            given[name] = given[name] and float(given[name])
        except ValueError:
            raise CeagError(f"{flag(name)}: '{given[name]}' is not a number") from None
    given["seed"] = given["seed"] and parse(AuditOptions, "seed", given["seed"])
    known = {name: value for name, value in given.items() if value is not None}
    found = conversion.write_groups(layout, folder, reporter=Terminal(), **known)
    _show(conversion.lines(found), conversion.document(found), as_json)


@_registered("groups", short_help="Show the groups of a CSV, or write one from a data set.")
def _groups(
    file: Annotated[
        str | None,
        typer.Argument(
            help="The groups CSV. [default: the policy's, else the model's] With --from, the "
            "folder of the data set."
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Write the CSV from a data set as it is published: utkface, fairface, cifar10, "
            "cifar100, celeba or imagefolder.",
            autocompletion=_one_of(
                "utkface", "fairface", "cifar10", "cifar100", "celeba", "imagefolder"
            ),
            **_WRITING,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The CSV to write. [default: labels.csv]", **_WRITING),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            "--missing",
            help="Images of which something is not known: error, drop, or group (their cells stay "
            "empty). [default: error]",
            autocompletion=_one_of("error", "drop", "group"),
            **_WRITING,
        ),
    ] = None,
    test_share: Annotated[
        str | None,
        typer.Option(
            "--test-share",
            help="Fraction of the images that become test, where there is no test split. "
            "[default: 0.2]",
            metavar="<float>",
            **_WRITING,
        ),
    ] = None,
    val_share: Annotated[
        str | None,
        typer.Option(
            "--val-share",
            help="Fraction of them that become val. [default: 0]",
            metavar="<float>",
            **_WRITING,
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed", help="Seed of the draws. [default: 42]", metavar="<int>", **_WRITING
        ),
    ] = None,
    overwrite: Annotated[
        bool | None,
        typer.Option("--overwrite", help="Replace an output that exists.", **_WRITING),
    ] = None,
    groups_by: Annotated[
        str | None, typer.Option("--groups-by", help="Columns that make the groups.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option("--label-column", help="Column with the target class.")
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="Largest excess accuracy gap, a fraction.", metavar="<float>"),
    ] = None,
    alpha: Annotated[
        str | None, typer.Option("--alpha", help="Error level.", metavar="<float>")
    ] = None,
    interval: Annotated[
        str | None,
        typer.Option(
            "--interval",
            help="Bounds of psi: score or exact.",
            autocompletion=_one_of("score", "exact"),
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="What is gated: overall or rest.",
            autocompletion=_one_of("overall", "rest"),
        ),
    ] = None,
    gate_splits: Annotated[
        str | None, typer.Option("--gate-splits", help="Splits that the verdict rests on.")
    ] = None,
    churn: Annotated[
        str | None,
        typer.Option(
            "--churn", help="Shares of the images on which one of the models alone is right."
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="YAML recipe of an audit.")
    ] = None,
    output_format: TextOrJson = "text",
) -> None:
    """Show the groups of a CSV, and which of them an audit could decide at this eps.

    No model is needed. What is asked is what 'ceag audit' would ask in this folder. With --from
    the CSV is written: --label-column says what becomes the label, --groups-by which columns.

    Example: ceag groups labels.csv --eps 0.02

    Example: ceag groups --from utkface UTKFace -o labels.csv --missing drop
    """
    with exit_codes():
        writing = {
            "output": output,
            "missing": missing,
            "test_share": test_share,
            "val_share": val_share,
            "seed": seed,
            "overwrite": overwrite,
        }
        showing = {
            "eps": eps,
            "alpha": alpha,
            "interval": interval,
            "against": against,
            "gate_splits": gate_splits,
            "churn": churn,
            "config": config,
        }
        _check_format(output_format)
        if layout is not None:
            _warn_of_idle(showing, "with --from")
            columns = {"label_column": label_column, "groups_by": groups_by}
            _write_groups(layout, file, columns | writing, output_format == "json")
            return
        _warn_of_idle(writing, "without --from")
        given = {
            "groups": file,
            "groups_by": groups_by,
            "label_column": label_column,
            "eps": eps,
            "alpha": alpha,
            "interval": interval,
            "against": against,
            "gate_splits": gate_splits,
            "plan_churn": churn,
            "format": output_format,
        }
        names = {"groups": "FILE", "plan_churn": "--churn"}
        options = resolve(AuditOptions, given, config, names=names)
        options = options if file is None else _without_answers(options)
        with named_as_given(options):
            _show_plan(options)


@_registered("check", short_help="Check ceag.yaml, and that its groups are in the CSV.")
def _check(
    file: Annotated[
        str | None, typer.Argument(help="The groups CSV. [default: the one that is named]")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Also check this recipe of an audit.")
    ] = None,
) -> None:
    """Check ceag.yaml or pyproject.toml, the groups CSV, and that the groups named are in it.

    Example: ceag check labels.csv
    """
    with exit_codes():
        from ceag_cli import starting

        checked = starting.check(Path(), file, config, Terminal())
        _show(checked, None, as_json=False)


@_registered("init", short_help="Write a commented ceag.yaml.")
def _init(
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a ceag.yaml that exists.")
    ] = False,
    eps: Annotated[
        str | None,
        typer.Option(
            "--eps",
            help="Largest excess accuracy gap to ask for. [default: 0.02]",
            metavar="<float>",
        ),
    ] = None,
) -> None:
    """Write a commented ceag.yaml that asks for the defaults, with the names of what is here.

    Example: ceag init
    """
    with exit_codes():
        from ceag_cli import starting
        from ceag_cli.policy import DEFAULT_EPS

        asked = DEFAULT_EPS if eps is None else parse(AuditOptions, "eps", eps)
        _show(starting.write_policy(Path(), overwrite, Terminal(), asked), None, as_json=False)


_Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="File to write. [default: beside FILE]", show_default=False
    ),
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]


def _show_archived(found: Any) -> None:
    from ceag_cli.stagereport import megabytes

    _print(
        f"wrote {found.output}: {megabytes(found.bytes)} "
        f"({found.source}: {megabytes(found.bytes_before)})\n"
    )


@_registered("pack")
def _pack(
    file: Annotated[Path, typer.Argument(help="A .safetensors file.")],
    output: _Output = None,
    overwrite: _Overwrite = False,
) -> None:
    """Write a pruned model in fewer bytes. Every command of ceag reads it; timm does not.

    Example: ceag pack model.pruned.safetensors
    """
    with exit_codes("pack"):
        from ceag_cli.archives import pack_file

        _show_archived(pack_file(file, output, overwrite=overwrite))


@_registered("unpack", short_help="Write a packed model as a plain timm file again.")
def _unpack(
    file: Annotated[Path, typer.Argument(help="A file that ceag has packed.")],
    output: _Output = None,
    overwrite: _Overwrite = False,
) -> None:
    """Write a packed model as a plain timm file, the same weights bit for bit.

    Example: ceag unpack model.pruned.packed.safetensors
    """
    with exit_codes("unpack"):
        from ceag_cli.archives import unpack_file

        _show_archived(unpack_file(file, output, overwrite=overwrite))


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        from ceag_cli.versions import versions

        for name, found in (versions() | {"typer": version("typer")}).items():
            typer.echo(f"{name} {found}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show versions.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Carry out the command line of this process."""
    with exit_codes_of_process():
        if not _is_one_of_many():
            app()
            return
        from ceag_cli.distributed import joined

        with joined(), exit_codes_of_process():
            app()


@contextmanager
def exit_codes_of_process() -> Iterator[None]:
    """The same for what happens outside of a command, where Typer cannot be told to exit."""
    try:
        yield
    except CeagError as error:  # the processes of a run have not come together
        _say_problems(error.problems)
        sys.exit(2)
    except Interrupted:  # said by who has begun the process
        raise
    except Ended as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(EXIT_CODE)
    except Exception:
        traceback.print_exc()
        sys.exit(4)
