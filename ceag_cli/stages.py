"""The stages that write models, as plain functions: options in, files written, a result out.

This is the only module that knows the whole story, so it only tells it: what is read, in which
order, and what is written. Logic lives further down.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ceag_cli.archives import packed_name
from ceag_cli.batchnorm import norms_of
from ceag_cli.checkpoints import Checkpoint, complete, place, save, writes_config
from ceag_cli.data import Data, open_data
from ceag_cli.distributed import World, speaking
from ceag_cli.errors import OptionError, OutputError
from ceag_cli.evaluation import Compute, evaluate
from ceag_cli.headers import SPLITS
from ceag_cli.initial import check_options as check_dense
from ceag_cli.initial import classes_of, initial_model, open_given
from ceag_cli.inputs import (
    check_targets,
    choose,
    find_early,
    inherited_groups,
    open_checkpoint,
    parents_of,
)
from ceag_cli.lineage import Lineage, SparsityRecord, derived
from ceag_cli.masks import Masks
from ceag_cli.methods import check_options
from ceag_cli.mitigation import Mitigation
from ceag_cli.models import architecture_of, check_runs, describe
from ceag_cli.options import DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.pairing import find_dense
from ceag_cli.preprocessing import Preprocessing, preprocessing_of
from ceag_cli.progress import Reporter
from ceag_cli.prunable import prunable_parameters, standardised
from ceag_cli.pruned import Rule, check_further, masks_of, rule_of
from ceag_cli.pruners import (
    OptionsPruner,
    check_images,
    needs_images,
    pattern_of,
    prune_result,
    schedule_of,
    target_of,
    warn_of_empty,
)
from ceag_cli.pruners import check_options as check_pruning
from ceag_cli.recipe import as_recipe
from ceag_cli.references import GroupsReference, Reference
from ceag_cli.results import DenseResult, MitigateResult, PruneResult
from ceag_cli.runs import AlreadyFinished, Run
from ceag_cli.sharedoptions import RunOptions
from ceag_cli.splits import Split
from ceag_cli.timmconfigs import TimmConfig
from ceag_cli.training import Training
from ceag_cli.versions import changed_since, versions
from ceag_cli.weightsfiles import sha256_of


def dense(options: DenseOptions, reporter: Reporter | None = None) -> DenseResult:
    """Train a timm model, fine-tune a checkpoint, or adopt one unchanged (``epochs=0``).

    Args:
        options: See ``ceag dense --help``.
        reporter: Hears how it goes.

    Raises:
        CeagError: Something given cannot be used.
        AlreadyFinished: ``resume``, and the output is there.
    """
    reporter = speaking(reporter)
    for warning in check_dense(options):
        reporter.warn(warning)
    output = place(options.output, Path("model.safetensors"))
    compute = Compute.of(options)
    given = open_given(options, reporter)
    data = open_data(options, [], reporter, "dense") if options.groups is not None else None
    names, new_classifier = classes_of(options, data, given)
    if data is not None:
        data.require(["train"] if options.epochs else [], seen_in_train=True)
        data.warn_of_duplicates(reporter)
    if given is not None:
        _refuse_same(given.path, output)
    run = Run(output, as_recipe(options), _inputs(data, input=given))
    with _opened(run, options, reporter) as state:
        early_output = _early_output(options, output, anew=state is None)
        torch.manual_seed(options.seed)
        model = initial_model(options, given, names, new_classifier)
        preprocessing = preprocessing_of(model if given is None else given.config, options)
        if given is None:  # else it was said when it was read
            reporter.say(f"model {architecture_of(model)}, {preprocessing}")
        check_runs(model, preprocessing)
        splits = _splits(data, preprocessing, options, reporter)
        early = None
        if options.epochs > 0:
            assert data is not None
            training = Training(
                model=model,
                split=splits["train"],
                preprocessing=preprocessing,
                compute=compute,
                options=options,
                epochs=options.epochs,
                seed=options.seed,
                num_groups=data.labels.grouping.num_groups,
                run=run,
                reporter=reporter,
                title="dense",
                early_epoch=options.early_epoch,
            )
            training.fit(state)
            early = training.early
        accuracy = _accuracy(model, splits, preprocessing, compute, reporter)
        config = describe(model, preprocessing, names)
        parents = {"input": Reference.to(given.path, given.sha256, output)} if given else {}
        groups = data.reference(output) if data else None
        lineage = _lineage("dense", options, parents, groups)
        if early is not None:
            assert early_output is not None
            reference = _write_early(early_output, model, early, config, lineage, named_by=output)
            lineage = replace(lineage, parents={**parents, "early": reference})
        _write(run, options, model, config, lineage)
        classes = int(config["num_classes"])
        return DenseResult(output, architecture_of(model), classes, accuracy, early_output)


def prune(options: PruneOptions, reporter: Reporter | None = None) -> PruneResult:
    """Prune a model: at once, or by a schedule over ``epochs`` of fine-tuning on the groups CSV.

    With a groups CSV the BatchNorm statistics of a model pruned at once are measured anew.

    Args:
        options: See ``ceag prune --help``.
        reporter: Hears how it goes.

    Raises:
        CeagError: Something given cannot be used.
        AlreadyFinished: ``resume``, and the output is there.
    """
    reporter = speaking(reporter)
    for warning in check_pruning(options):
        reporter.warn(warning)
    compute = Compute.of(options)
    source = open_checkpoint(
        choose(options.checkpoint, ("dense",), "prune", reporter), options, reporter
    )
    default = derived(source.path, "pruned")
    output = place(options.output, packed_name(default) if options.pack else default)
    _refuse_same(source.path, output)
    if options.pack and writes_config(options.output):
        raise OptionError("-o DIR/ is for plain timm, which cannot read a packed file (--pack)")
    names = tuple(prunable_parameters(source.model, options.include, options.exclude))
    if standardised(source.model):
        reporter.warn(
            f"{architecture_of(source.model)} standardises its weights before it uses them: pruned "
            "weights are zero in the file, but not in the computation"
        )
    data, train = _images_to_prune_by(options, source, reporter)
    pruner = OptionsPruner(options, names, source, compute, reporter, data, train)
    if options.dry_run:
        masks = pruner(source.model, target_of(options))
        return prune_result(options, output, source.model, masks)
    if options.epochs > 0 and options.scope == "layer" and pattern_of(options) is None:
        check_further(source, target_of(options), reporter, names)
    early = None
    if schedule_of(options) == "rewind":
        early = find_early(source, options, reporter)
    run = Run(output, as_recipe(options), _inputs(data, input=source, early=early))
    with _opened(run, options, reporter) as state:
        recalibrated, rounds = None, None
        if options.epochs > 0:
            masks, rounds = pruner.prune_in_training(run, state, early.model if early else None)
        else:
            masks = pruner(source.model, target_of(options))
            recalibrated = pruner.recalibrate(source.model)
        warn_of_empty(masks, reporter)
        lineage = _lineage(
            "pruned",
            options,
            parents_of(source, output, early=early),
            data.reference(output) if data else inherited_groups(source, output),
            sparsity=_record(
                target_of(options), masks, options.criterion, options.scope, options.pattern
            ),
            recalibrated=recalibrated,
        )
        _write(run, options, source.model, source.config, lineage, packed=options.pack)
        return World.current().on_first(
            partial(prune_result, options, output, source.model, masks, recalibrated, rounds)
        )


def mitigate(options: MitigateOptions, reporter: Reporter | None = None) -> MitigateResult:
    """Fine-tune a pruned model under the constraint ``psi_g <= eps`` for every group.

    With ``sparsity``, a dense model is first pruned gradually over ``prune_epochs`` and mitigation
    starts after them, which is the paper's pipeline.

    Args:
        options: See ``ceag mitigate --help``.
        reporter: Hears how it goes.

    Raises:
        CeagError: Something given cannot be used.
        AlreadyFinished: ``resume``, and the output is there.
    """
    reporter = speaking(reporter)
    for warning in check_options(options):
        reporter.warn(warning)
    compute = Compute.of(options)
    stages = ("pruned",) if options.sparsity is None else ("dense",)
    path = choose(options.checkpoint, stages, "mitigate", reporter)
    source = open_checkpoint(path, options, reporter)
    output = place(options.output, derived(path, "mitigated"))
    _refuse_same(path, output)
    if options.method == "fairgrape" and source.lineage and source.lineage.sparsity:
        raise OptionError(
            f"{path}: is pruned already, and --method fairgrape chooses the weights to prune "
            "itself; give the dense model"
        )
    masks, rule = None, None
    if options.sparsity is None:
        masks = masks_of(source)
    else:
        rule = rule_of(source, options.sparsity, reporter)
        check_further(source, options.sparsity, reporter, rule.names, rule.scope)
    reference = _dense_model_of(source, options, reporter)
    data = open_data(options, [source, reference], reporter, "mitigate")
    check_targets(data, source, options.class_map)
    data.require(["train"], seen_in_train=True)
    data.warn_of_duplicates(reporter)
    run = Run(output, as_recipe(options), _inputs(data, input=source, dense=reference))
    with _opened(run, options, reporter) as state:
        mitigation = Mitigation(options, source, reference, data, compute, reporter, rule)
        found = mitigation.fine_tune(masks, run, state)
        lineage = _lineage(
            "mitigated",
            options,
            parents_of(source, output, reference),
            data.reference(output),
            sparsity=_record_of_mitigated(options, source, found.masks, rule),
            eps=options.eps,
        )
        _write(run, options, source.model, source.config, lineage)
        return MitigateResult(
            output=output,
            method=options.method,
            eps=options.eps,
            train=found.train,
            mixed=found.mixed,
            satisfied=found.satisfied,
            sparsity=found.masks.sparsity,
            epochs=found.epochs,
            kept=found.kept,
            judged_on=found.judged_on,
        )


def _lineage(
    stage: str,
    options: DenseOptions | PruneOptions | MitigateOptions,
    parents: Mapping[str, Reference],
    groups: GroupsReference | None,
    *,
    sparsity: SparsityRecord | None = None,
    eps: float | None = None,
    recalibrated: int | None = None,
) -> Lineage:
    """Where a file comes from that these options make here and now."""
    return Lineage(
        stage=stage,
        version=version("ceag"),
        versions=versions(),
        seed=options.seed,
        recipe=as_recipe(options),
        parents=parents,
        groups=groups,
        sparsity=sparsity,
        eps=eps,
        recalibrated=recalibrated,
    )


def _inputs(data: Data | None, **files: Checkpoint | None) -> dict[str, str]:
    """Hashes of what a run reads, by role."""
    hashes = {role: file.sha256 for role, file in files.items() if file is not None}
    return hashes | (data.hashes() if data else {})


@contextmanager
def _opened(run: Run, options: RunOptions, reporter: Reporter) -> Iterator[dict[str, Any] | None]:
    """Be the only run that writes an output; the state to continue from, if there is any."""
    world = World.current()
    with ExitStack() as held:
        world.on_first(lambda: held.enter_context(run.claimed(reporter)))
        opened = partial(run.open, resume=options.resume, overwrite=options.overwrite)
        try:
            state = world.on_first(opened)
        except AlreadyFinished:
            if writes_config(options.output):
                world.on_first(partial(complete, run.output))
            raise
        if state is not None:
            for change in changed_since(state["versions"]):
                reporter.warn(f"{run.folder}: {change}: the result may differ in its last digits")
        elif options.resume:
            reporter.say(f"nothing to resume for {run.output}; starting from the beginning")
        yield state
        world.on_first(held.close)  # so that no process goes on before it is done


def _write(
    run: Run,
    options: RunOptions,
    model: nn.Module,
    config: TimmConfig,
    lineage: Lineage,
    *,
    packed: bool = False,
) -> None:
    """Write what a run has made, and drop the state that led to it."""

    def write() -> None:
        save(run.output, model, config, lineage, writes_config(options.output), packed=packed)
        run.finish()

    World.current().on_first(write)


def _write_early(
    path: Path,
    model: nn.Module,
    weights: Mapping[str, Tensor],
    config: TimmConfig,
    lineage: Lineage,
    *,
    named_by: Path,
) -> Reference:
    """Write the weights that a model had early on; how the file ``named_by`` refers to them."""
    was = copy.deepcopy(model)
    was.load_state_dict(weights)

    def write() -> Reference:
        save(path, was, config, replace(lineage, stage="early"), with_config=False)
        return Reference.to(path, sha256_of(path), named_by)

    return World.current().on_first(write)


def _refuse_same(source: Path, output: Path) -> None:
    if output.resolve() == source.resolve():
        raise OutputError(f"{output}: is the input; write elsewhere with -o")


def _early_output(options: DenseOptions, output: Path, *, anew: bool) -> Path | None:
    """Where early weights go, if any are asked for; ``anew`` means that nothing is continued."""
    if options.early_epoch is None:
        return None
    path = derived(output, "early")

    def refuse_existing() -> None:
        if path.exists():
            raise OutputError(f"{path}: exists already; replace it with --overwrite")

    if anew and not options.overwrite:
        World.current().on_first(refuse_existing)
    return path


def _accuracy(
    model: nn.Module,
    splits: Mapping[str, Split],
    preprocessing: Preprocessing,
    compute: Compute,
    reporter: Reporter,
) -> dict[str, float]:
    """The accuracy of a dense model, by split."""
    found = {}
    for name, split in splits.items():
        said = evaluate(model, split, preprocessing, compute, reporter, f"dense on {name}")
        found[name] = float(said.correct.double().mean())
    return found


def _dense_model_of(source: Checkpoint, options: MitigateOptions, reporter: Reporter) -> Checkpoint:
    """What psi is measured against: the model behind a pruned one, a dense one is its own."""
    is_dense = source.lineage is None or "dense" not in source.lineage.parents
    named = options.dense is not None or options.baseline is not None
    if options.sparsity is not None and is_dense and not named:
        return source
    return find_dense(source, options, reporter)


def _images_to_prune_by(
    options: PruneOptions, source: Checkpoint, reporter: Reporter
) -> tuple[Data | None, Split | None]:
    """The groups CSV, if one is named or needed, and of it the train images, if they are used."""
    needs_train = needs_images(options)
    if not needs_train and options.groups is None:
        return None, None
    check_images(options, source)
    data = open_data(options, [source], reporter, "prune")
    check_targets(data, source, options.class_map)
    data.require(["train"] if needs_train else [], seen_in_train=True)
    recalibrates = options.recalibrate != 0 and norms_of(source.model)
    if needs_train or ("train" in data.labels.splits and recalibrates):
        return data, data.split("train", source.preprocessing, options, reporter)
    return data, None


def _splits(
    data: Data | None, preprocessing: Preprocessing, options: RunOptions, reporter: Reporter
) -> dict[str, Split]:
    """Every split that has rows, decoded."""
    if data is None:
        return {}
    names = [name for name in SPLITS if name in data.labels.splits]
    return {name: data.split(name, preprocessing, options, reporter) for name in names}


def _record_of_mitigated(
    options: MitigateOptions, source: Checkpoint, masks: Masks, rule: Rule | None
) -> SparsityRecord:
    """How a model was pruned that is mitigated now: as its file says, unless it is done here."""
    record = source.lineage.sparsity if source.lineage else None
    if rule is None or options.sparsity is None:
        if record is None:  # pruned by another tool
            return _record(masks.sparsity, masks, "unknown")
        return _record(record.target, masks, record.criterion, record.scope, record.pattern)
    criterion = "fairgrape" if options.method == "fairgrape" else "magnitude"
    return _record(options.sparsity, masks, criterion, rule.scope)


def _record(
    target: float,
    masks: Masks,
    criterion: str,
    scope: str = "layer",
    pattern: str = "unstructured",
) -> SparsityRecord:
    return SparsityRecord(
        target=target,
        scope=scope,
        criterion=criterion,
        pattern=pattern,
        tensors={
            name: (zeros, masks.pruned[name].numel()) for name, zeros in masks.zeros().items()
        },
    )
