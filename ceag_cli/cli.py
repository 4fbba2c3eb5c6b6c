"""The command line: a command parses, calls one function, and prints what it has found.

Flags are made from the declarations of options (``parameters``). torch is imported when a function
starts, not before, so that ``--help`` answers at once. What exit codes mean is in ``exitcodes``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ceag_cli.declarations import flag, named_as_given, parse
from ceag_cli.errors import CeagError
from ceag_cli.exitcodes import exit_codes, exit_codes_of_process
from ceag_cli.launched import is_one_of_many
from ceag_cli.options import (
    COMMANDS,
    AuditOptions,
    Command,
    DenseOptions,
    ExemplarsOptions,
    ExplainOptions,
    ExportOptions,
    MitigateOptions,
    PruneOptions,
)
from ceag_cli.parameters import one_of, signature_of
from ceag_cli.recipe import resolve
from ceag_cli.terminal import Terminal, print_document, print_lines, print_result
from ceag_cli.usage import NoneEmpty, Program

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


def _command(
    name: str, example: str, brief: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``run(options)`` as a command with the flags of its options class.

    Args:
        name: What it is called.
        example: The last paragraph of its help.
        brief: What ``ceag --help`` says of it, where the first sentence of its help is too long.
    """
    options_class = COMMANDS[name]

    def register(run: Callable[..., None]) -> Callable[..., None]:
        def command(*, config: str | None = None, **given: Any) -> None:
            with exit_codes(name):
                # A flag that may be repeated and is not there arrives as an empty list.
                known = {name: value for name, value in given.items() if value != []}
                options = resolve(options_class, known, config)
                with named_as_given(options):
                    run(options)

        signature = signature_of(options_class)
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        help_text = f"{inspect.getdoc(options_class)}\n\n{example}"
        _registered(name, help=help_text, short_help=brief)(command)
        return run

    return register


_Format = Annotated[
    str,
    typer.Option("--format", help="text or json.", autocompletion=one_of("text", "json")),
]


def _check_format(name: str, what: str = "") -> None:
    if name not in ("text", "json"):
        raise CeagError(f"--format: '{name}' is not one of text, json{what}")


def _show(format_: str, lines: Sequence[str], document: Any) -> None:
    if format_ == "json":
        print_document(document)
    else:
        print_lines(lines)


# Commands that write a model


def _make(
    name: str,
    options: Command,
    make: Callable[..., Any],
    lines: Callable[[Any], Sequence[str]],
) -> Any:
    """Carry out what writes a model, and print its result; ``None`` if that was done before."""
    from importlib.metadata import version

    from ceag_cli.runs import AlreadyFinished
    from ceag_cli.stagereport import result_document

    try:
        result = make(options, Terminal())
    except AlreadyFinished as finished:
        typer.echo(f"{finished}: the run has finished already; nothing to do", err=True)
        return None
    document = result_document(name, version("ceag"), options.seed, result)
    _show(options.format, lines(result), document)
    return result


@_command("dense", "Example: ceag dense --groups labels.csv --model resnet18")
def _dense(options: DenseOptions) -> None:
    from ceag_cli import stagereport, stages

    _make("dense", options, stages.dense, stagereport.dense_lines)


@_command("prune", "Example: ceag prune model.safetensors --sparsity 0.9")
def _prune(options: PruneOptions) -> None:
    from ceag_cli import stagereport, stages

    _make("prune", options, stages.prune, stagereport.prune_lines)


@_command(
    "mitigate",
    "Example: ceag mitigate --groups labels.csv --eps 0.02",
    "Fine-tune so that no group loses more than eps beyond the rest.",
)
def _mitigate(options: MitigateOptions) -> None:
    from ceag_cli import stagereport, stages

    result = _make("mitigate", options, stages.mitigate, stagereport.mitigate_lines)
    if result is not None and not result.satisfied and options.strict:
        raise typer.Exit(1)


# Commands that look at models


def _find(find: Callable[[], Any], show: Callable[[Any], None]) -> Any:
    """Show what is found, also where a report of it cannot be written."""
    from ceag_cli.results import NotWritten

    try:
        found = find()
    except NotWritten as error:
        show(error.found)
        raise
    show(found)
    return found


@_command(
    "audit",
    "Example: ceag audit (exit code 0: gate satisfied, 1: FAIL, 3: not enough is decided)",
    "Compare a dense with a sparse model by group; a gate for CI.",
)
def _audit(options: AuditOptions) -> None:
    if options.plan:
        _show_plan(options)
        return
    from ceag_cli import auditing

    found = _find(
        partial(auditing.run_audit, options, Terminal()), partial(_print_audit, name=options.format)
    )
    raise typer.Exit(found.result.exit_code)


def _print_audit(audit: Any, name: str) -> None:
    if name == "text" and sys.stdout is not None and sys.stdout.isatty():
        from ceag_cli.plaintext import console_of, print_audit

        print_audit(audit, console_of())
    else:
        from ceag_cli.formats import render

        print_result(render(audit, name))


def _show_plan(options: AuditOptions) -> None:
    from importlib.metadata import version

    from ceag_cli import planning, planreport

    _check_format(options.format, " for a plan")
    found = planning.plan_audit(options, Terminal())
    _show(options.format, planreport.lines(found), planreport.document(found, version("ceag")))


@_command(
    "explain",
    "Example: ceag explain (describes; the exit code is no verdict)",
    "Describe by group why pruning costs what it costs.",
)
def _explain(options: ExplainOptions) -> None:
    from ceag_cli import explaining
    from ceag_cli.explanationformats import render

    _find(
        partial(explaining.explain, options, Terminal()),
        lambda found: print_result(render(found, options.format)),
    )


@_command(
    "exemplars",
    "Example: ceag exemplars seed-*/model.pruned.safetensors (describes; the exit code is no "
    "verdict)",
    "Find the images that dense and sparse models answer differently.",
)
def _exemplars(options: ExemplarsOptions) -> None:
    from ceag_cli import identifying
    from ceag_cli.pieformats import render

    _find(
        partial(identifying.exemplars, options, Terminal()),
        lambda found: print_result(render(found, options.format)),
    )


@_registered("schema")
def _schema(
    command: Annotated[
        str,
        typer.Argument(
            help="audit, explain, exemplars or sweep.",
            metavar="COMMAND",
            autocompletion=one_of("audit", "explain", "exemplars", "sweep"),
        ),
    ] = "audit",
) -> None:
    """Print the JSON schema of a command's JSON document.

    Example: ceag schema explain
    """
    with exit_codes():
        from ceag_cli.schemas import schema

        print_result(schema(command))


@_command(
    "export",
    "Example: ceag export model.pruned.safetensors",
    "Write a model as ONNX, which other runtimes run.",
)
def _export(options: ExportOptions) -> None:
    from ceag_cli import exports

    _make("export", options, exports.export, exports.lines)


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
    output_format: _Format = "text",
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
        _show(output_format, sweepreport.lines(found), as_document(found))


@_registered("info", short_help="Show a file's lineage, architecture, sparsity, eps and groups.")
def _info(
    file: Annotated[Path, typer.Argument(help="A .safetensors file written by ceag.")],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Also list every tensor with its zeros.")
    ] = False,
    output_format: _Format = "text",
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
        _show(output_format, lines, found)


# ceag groups: shows what an audit of a CSV could decide; with --from it writes the CSV

_WRITING: dict[str, Any] = {
    "rich_help_panel": "Writing the CSV (with --from)",
    "show_default": False,
}

_GroupsFile = Annotated[
    str | None,
    typer.Argument(
        help="The groups CSV. [default: the policy's, else the model's] With --from, the "
        "folder of the data set."
    ),
]
_Layout = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Write the CSV from a data set as it is published: utkface, fairface, cifar10, "
        "cifar100, celeba or imagefolder.",
        autocompletion=one_of(
            "utkface", "fairface", "cifar10", "cifar100", "celeba", "imagefolder"
        ),
        **_WRITING,
    ),
]
_WrittenCsv = Annotated[
    str | None,
    typer.Option("--output", "-o", help="The CSV to write. [default: labels.csv]", **_WRITING),
]
_Missing = Annotated[
    str | None,
    typer.Option(
        "--missing",
        help="Images of which something is not known: error, drop, or group (their cells stay "
        "empty). [default: error]",
        autocompletion=one_of("error", "drop", "group"),
        **_WRITING,
    ),
]
_TestShare = Annotated[
    str | None,
    typer.Option(
        "--test-share",
        help="Fraction of the images that become test, where there is no test split. "
        "[default: 0.2]",
        metavar="<float>",
        **_WRITING,
    ),
]
_ValShare = Annotated[
    str | None,
    typer.Option(
        "--val-share",
        help="Fraction of them that become val. [default: 0]",
        metavar="<float>",
        **_WRITING,
    ),
]
_Seed = Annotated[
    str | None,
    typer.Option("--seed", help="Seed of the draws. [default: 42]", metavar="<int>", **_WRITING),
]
_OverwriteCsv = Annotated[
    bool | None, typer.Option("--overwrite", help="Replace an output that exists.", **_WRITING)
]
_GroupsBy = Annotated[str | None, typer.Option("--groups-by", help="Columns that make the groups.")]
_LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Column with the target class.")
]
_Eps = Annotated[
    str | None,
    typer.Option("--eps", help="Largest excess accuracy gap, a fraction.", metavar="<float>"),
]
_Alpha = Annotated[str | None, typer.Option("--alpha", help="Error level.", metavar="<float>")]
_Interval = Annotated[
    str | None,
    typer.Option(
        "--interval",
        help="Bounds of psi: score or exact.",
        autocompletion=one_of("score", "exact"),
    ),
]
_Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        help="What is gated: overall or rest.",
        autocompletion=one_of("overall", "rest"),
    ),
]
_GateSplits = Annotated[
    str | None, typer.Option("--gate-splits", help="Splits that the verdict rests on.")
]
_Churn = Annotated[
    str | None,
    typer.Option("--churn", help="Shares of the images on which one of the models alone is right."),
]
_AuditRecipe = Annotated[
    str | None, typer.Option("--config", "-c", help="YAML recipe of an audit.")
]


@_registered("groups", short_help="Show the groups of a CSV, or write one from a data set.")
def _groups(
    file: _GroupsFile = None,
    layout: _Layout = None,
    output: _WrittenCsv = None,
    missing: _Missing = None,
    test_share: _TestShare = None,
    val_share: _ValShare = None,
    seed: _Seed = None,
    overwrite: _OverwriteCsv = None,
    groups_by: _GroupsBy = None,
    label_column: _LabelColumn = None,
    eps: _Eps = None,
    alpha: _Alpha = None,
    interval: _Interval = None,
    against: _Against = None,
    gate_splits: _GateSplits = None,
    churn: _Churn = None,
    config: _AuditRecipe = None,
    output_format: _Format = "text",
) -> None:
    """Show the groups of a CSV, and which of them an audit could decide at this eps.

    No model is needed. What is asked is what 'ceag audit' would ask in this folder. With --from
    the CSV is written: --label-column says what becomes the label, --groups-by which columns.

    Example: ceag groups labels.csv --eps 0.02

    Example: ceag groups --from utkface UTKFace -o labels.csv --missing drop
    """
    columns = {"groups_by": groups_by, "label_column": label_column}
    writing: dict[str, str | bool | None] = {
        "output": output,
        "missing": missing,
        "test_share": test_share,
        "val_share": val_share,
        "seed": seed,
        "overwrite": overwrite,
    }
    asking = {
        "eps": eps,
        "alpha": alpha,
        "interval": interval,
        "against": against,
        "gate_splits": gate_splits,
    }
    with exit_codes():
        _check_format(output_format)
        if layout is not None:
            _warn_of_idle(asking | {"churn": churn, "config": config}, "with --from")
            _write_groups(layout, file, columns | writing, output_format)
        else:
            from ceag_cli.planning import options_of_plan

            _warn_of_idle(writing, "without --from")
            options = options_of_plan(file, columns | asking, churn, config, output_format)
            with named_as_given(options):
                _show_plan(options)


def _warn_of_idle(given: Mapping[str, Any], where: str) -> None:
    for name, value in given.items():
        if value is not None:
            Terminal().warn(f"{flag(name)} has no effect {where}")


def _write_groups(
    layout: str, folder: str | None, given: Mapping[str, str | bool | None], format_: str
) -> None:
    from ceag_cli import conversion

    found = conversion.write_as_asked(layout, folder, given, Terminal())
    _show(format_, conversion.lines(found), conversion.document(found))


# Policies, and packed files


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
        from ceag_cli import checking

        print_lines(checking.check(Path(), file, config, Terminal()))


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
        print_lines(starting.write_policy(Path(), overwrite, Terminal(), asked))


_Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="File to write. [default: beside FILE]", show_default=False
    ),
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]


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
        from ceag_cli.stagereport import archived_lines

        print_lines(archived_lines(pack_file(file, output, overwrite=overwrite)))


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
        from ceag_cli.stagereport import archived_lines

        print_lines(archived_lines(unpack_file(file, output, overwrite=overwrite)))


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
        if not is_one_of_many():
            app()
            return
        from ceag_cli.launching import joined

        with joined(), exit_codes_of_process():
            app()
