"""The four stages as plain functions: options in, files written, a result out.

This is the only module that knows the whole story, so it only tells it: what is read, in which
order, and what is written. Logic lives further down.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ceag_cli.answers import Answered, answers, pairs_of
from ceag_cli.archives import packed_name
from ceag_cli.audit import audit
from ceag_cli.batchnorm import norms_of
from ceag_cli.checkpoints import Checkpoint, complete, load_adapted, place, save, writes_config
from ceag_cli.classes import class_index, class_order, ordered_names
from ceag_cli.distributed import World, speaking
from ceag_cli.documents import audit_document
from ceag_cli.errors import OptionError, OutputError
from ceag_cli.evaluation import Compute, evaluate
from ceag_cli.explanations import explanation_document, kept_explanation
from ceag_cli.formats import write_reports
from ceag_cli.gallery import gallery, pictures_asked
from ceag_cli.headers import SPLITS
from ceag_cli.images import Split
from ceag_cli.inputs import (
    Data,
    Rule,
    check_further,
    check_targets,
    choose,
    find_early,
    inherited_groups,
    masks_of,
    open_checkpoint,
    open_data,
    parents_of,
    rule_of,
)
from ceag_cli.lineage import (
    Lineage,
    Reference,
    SparsityRecord,
    derived,
    sha256_of,
    weights_in,
)
from ceag_cli.locks import claimed
from ceag_cli.masks import Masks
from ceag_cli.methods import check_options
from ceag_cli.mitigation import Mitigation
from ceag_cli.models import (
    Preprocessing,
    architecture_of,
    check_runs,
    create,
    describe,
    model_kwargs,
    preprocessing_of,
)
from ceag_cli.options import (
    WITH_IMAGES,
    AuditOptions,
    DataOptions,
    DenseOptions,
    MitigateOptions,
    PruneOptions,
    RunOptions,
    TrainingOptions,
    no_effect,
)
from ceag_cli.pairing import find_dense
from ceag_cli.pies import kept_pies, pies_document
from ceag_cli.policy import policy_of
from ceag_cli.progress import Reporter
from ceag_cli.prunable import prunable_parameters, standardised
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
from ceag_cli.reportfiles import refuse_file, report_files
from ceag_cli.results import Audit, DenseResult, MitigateResult, PruneResult
from ceag_cli.runs import AlreadyFinished, Run
from ceag_cli.shifts import answers_of, shifts
from ceag_cli.shifts import document as shift_document
from ceag_cli.timmconfigs import TimmConfig
from ceag_cli.training import Training, without_effect
from ceag_cli.versions import changed_since, versions


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
    given = None
    if options.checkpoint is not None:
        path = weights_in(Path(options.checkpoint))
        given = open_checkpoint(path, _as_it_is(options), reporter)
    data = open_data(options, [], reporter, "dense") if options.groups is not None else None
    names, new_classifier = _classes(options, data, given)
    if data is not None:
        data.require(["train"] if options.epochs else [], seen_in_train=True)
        data.warn_of_duplicates(reporter)
    if given is not None:
        _refuse_same(given.path, output)
    run = Run(output, as_recipe(options), _inputs(data, input=given))
    with _opened(run, options, reporter) as state:
        early_output = None if options.early_epoch is None else derived(output, "early")
        if early_output is not None and not (state or options.overwrite):
            World.current().on_first(partial(_refuse_existing, early_output))

        torch.manual_seed(options.seed)
        model = _dense_model(options, given, names, new_classifier)
        preprocessing = preprocessing_of(model if given is None else given.config, options)
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
        accuracy = {}
        for name, split in splits.items():
            said = evaluate(model, split, preprocessing, compute, reporter, f"dense on {name}")
            accuracy[name] = float(said.correct.double().mean())
        lineage = Lineage(
            stage="dense",
            version=_version(),
            versions=versions(),
            seed=options.seed,
            recipe=as_recipe(options),
            parents={"input": Reference.to(given.path, given.sha256, output)} if given else {},
            groups=data.reference(output) if data else None,
        )
        config = describe(model, preprocessing, names)
        if early is not None:
            assert early_output is not None
            was = copy.deepcopy(model)
            was.load_state_dict(early)
            of_early = replace(lineage, stage="early")
            found = World.current().on_first(
                partial(_write_early, early_output, was, config, of_early, output)
            )
            lineage = replace(lineage, parents={**lineage.parents, "early": found})
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
    data, train = None, None
    needs_train = needs_images(options)
    if needs_train or options.groups is not None:
        check_images(options, source)
        data = open_data(options, [source], reporter, "prune")
        check_targets(data, source, options.class_map)
        data.require(["train"] if needs_train else [], seen_in_train=True)
        recalibrates = options.recalibrate != 0 and norms_of(source.model)
        if needs_train or ("train" in data.labels.splits and recalibrates):
            train = data.split("train", source.preprocessing, options, reporter)
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
        lineage = Lineage(
            stage="pruned",
            version=_version(),
            versions=versions(),
            seed=options.seed,
            recipe=as_recipe(options),
            parents=parents_of(source, output, early=early),
            groups=data.reference(output) if data else inherited_groups(source, output),
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
    reference = source
    from_dense = source.lineage is None or "dense" not in source.lineage.parents
    named = options.dense is not None or options.baseline is not None
    if options.sparsity is None or named or not from_dense:
        reference = find_dense(source, options, reporter)
    data = open_data(options, [source, reference], reporter, "mitigate")
    check_targets(data, source, options.class_map)
    data.require(["train"], seen_in_train=True)
    data.warn_of_duplicates(reporter)
    run = Run(output, as_recipe(options), _inputs(data, input=source, dense=reference))
    with _opened(run, options, reporter) as state:
        mitigation = Mitigation(options, source, reference, data, compute, reporter, rule)
        found = mitigation.fine_tune(masks, run, state)
        lineage = Lineage(
            stage="mitigated",
            version=_version(),
            versions=versions(),
            seed=options.seed,
            recipe=as_recipe(options),
            parents=parents_of(source, output, reference),
            groups=data.reference(output),
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


def run_audit(options: AuditOptions, reporter: Reporter | None = None) -> Audit:
    """Compare a dense with a sparse model by group, on train and on the held-out splits.

    The verdict rests on split ``test``; ``train`` and ``val`` are described. The report is
    written to the run folder of the sparse model, or to ``output``, with the answers of both
    models, which the next audit takes in place of evaluating them.

    Args:
        options: See ``ceag audit --help``.
        reporter: Hears how it goes.

    Raises:
        NotWritten: A report could not be written; the error carries what was found.
        CeagError: Something given cannot be used.
    """
    reporter = speaking(reporter)
    given = None if options.output is None else Path(options.output)
    world = World.current()
    if given is not None:
        refuse_file(given)
    # What cannot be written is known before any model is run.
    world.on_first(partial(report_files, options.report, given))
    with ExitStack() as held:

        def claim(folder: Path) -> None:
            remedy = "wait for it, or name another folder with -o"
            one = claimed(folder / "audit.lock", remedy, reporter)
            world.on_first(lambda: held.enter_context(one))

        found = _audited(options, answers(options, reporter, claim), given, reporter)
        world.on_first(held.close)
        return found


def _audited(
    options: AuditOptions, answered: Answered, given: Path | None, reporter: Reporter
) -> Audit:
    """Judge answers, and write the reports."""
    world = World.current()
    table, subject, folder = answered.table, answered.subject, answered.folder
    files = world.on_first(partial(report_files, options.report, folder, subject.files))
    policy = policy_of(options, answered.eps)
    result = audit(
        pairs_of(table),
        table.grouping,
        policy,
        options.gate_splits,
        seed=options.seed,
        identical=subject.dense_sha256 is not None
        and subject.dense_sha256 == subject.sparse_sha256,
    )
    result = replace(result, warnings=(*subject.remarks, *result.warnings))
    if options.format != "text":  # which has them
        for warning in result.warnings:
            reporter.warn(warning)
    for note in policy.notes(date.today(), result.verdicts_by_group()):
        reporter.say(note)
    reporter.say(policy.origin_line())
    more = tuple(
        shifts(answers_of(table, split, options.control), policy.alpha, policy.interval)
        for split in table.splits
    )
    further = [shift_document(found) for found in more]
    why, reason = world.on_first(partial(kept_explanation, folder, subject))
    pies, other_reason = world.on_first(partial(kept_pies, folder, subject))
    for said in filter(None, (reason, other_reason)):
        reporter.say(said)
    document = audit_document(
        result,
        subject,
        _version(),
        options.seed,
        further,
        None if why is None else explanation_document(why),
        None if pies is None else pies_document(pies),
    )
    most = pictures_asked(options.gallery)
    flips = gallery(result, table, answered.read, most) if answered.read else ()
    page = folder / "audit.html"
    found = Audit(result, subject, document, page, more, _version(), flips, why, pies)
    world.on_first(partial(write_reports, found, files))
    return found


def _version() -> str:
    return version("ceag")


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
    path: Path, model: nn.Module, config: TimmConfig, lineage: Lineage, named_by: Path
) -> Reference:
    """Write early weights; how the file ``named_by`` refers to them."""
    save(path, model, config, lineage, with_config=False)
    return Reference.to(path, sha256_of(path), named_by)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise OutputError(f"{path}: exists already; replace it with --overwrite")


def _refuse_same(source: Path, output: Path) -> None:
    if output.resolve() == source.resolve():
        raise OutputError(f"{output}: is the input; write elsewhere with -o")


def _splits(
    data: Data | None, preprocessing: Preprocessing, options: RunOptions, reporter: Reporter
) -> dict[str, Split]:
    """Every split that has rows, decoded."""
    if data is None:
        return {}
    names = [name for name in SPLITS if name in data.labels.splits]
    return {name: data.split(name, preprocessing, options, reporter) for name in names}


def check_dense(options: DenseOptions) -> list[str]:
    """Refuse options of ``ceag dense`` that are missing or contradict each other.

    Returns:
        What has no effect, as warnings.

    Raises:
        OptionError: With the options and the remedy.
    """
    if options.checkpoint is None and options.model is None:
        raise OptionError("ceag dense needs --model, a timm model, or --checkpoint, a file")
    if options.checkpoint is None and options.epochs == 0 and not options.pretrained:
        raise OptionError("--epochs 0 adopts existing weights; name them with --checkpoint")
    if options.early_epoch is not None and options.early_epoch >= options.epochs:
        raise OptionError(
            f"--early-epoch {options.early_epoch} must be less than --epochs {options.epochs}"
        )
    if options.groups is None and options.epochs > 0:
        raise OptionError("ceag dense needs --groups, a CSV with one row per image")
    adopts_hub_weights = options.pretrained and options.epochs == 0
    if adopts_hub_weights and options.groups is not None and options.class_map is None:
        raise OptionError(
            "--pretrained --epochs 0 keeps a classifier whose class names are not known; name its "
            "outputs with --class-map"
        )
    if options.checkpoint is not None and options.pretrained:
        raise OptionError("--checkpoint and --pretrained both name weights to start from")
    idle: dict[str, tuple[bool, tuple[str, ...]]] = {
        "without --checkpoint": (options.checkpoint is None, ("use_ema",)),
        "with --epochs 0": (options.epochs == 0, tuple(TrainingOptions.__dataclass_fields__)),
        "without --groups": (
            options.groups is None,
            (*DataOptions.__dataclass_fields__, *WITH_IMAGES),
        ),
    }
    return no_effect(options, idle) + (without_effect(options) if options.epochs else [])


def _classes(
    options: DenseOptions, data: Data | None, given: Checkpoint | None
) -> tuple[list[str] | None, bool]:
    """Names of the classes, and whether the classifier has to be a new one.

    Also maps the labels of the CSV to outputs. A checkpoint keeps its classifier unless
    ``--num-classes`` asks for another number of classes or its labels cannot be mapped.
    """
    if data is None:
        assert given is not None or options.pretrained
        return (given.label_names if given else None), False
    if given is not None:
        outputs = int(given.model.num_classes)  # type: ignore[arg-type]
        index = class_index(given.label_names, options.class_map, outputs)
        known = set(data.labels.label.names) <= index.keys()
        if options.num_classes in (None, outputs) and (known or options.num_classes is None):
            check_targets(data, given, options.class_map)
            names = given.label_names
            if options.class_map is not None and len(index) == outputs:
                names = sorted(index, key=lambda name: index[name])
            return names, False
        if options.epochs == 0:
            raise OptionError("--num-classes makes a new classifier, which --epochs 0 cannot train")
    names = class_order(data.labels.label.names)
    if options.class_map is not None and given is None:
        names = ordered_names(Path(options.class_map))
    if options.num_classes not in (None, len(names)):
        raise OptionError(
            f"--num-classes {options.num_classes}: column '{data.labels.label_column}' has "
            f"{len(names)} classes; name all of them with --class-map, or leave the option out"
        )
    index = {name: i for i, name in enumerate(names)}
    data.targets = data.labels.check_labels(index, f"--class-map {options.class_map}")
    return names, True


def _dense_model(
    options: DenseOptions, given: Checkpoint | None, names: list[str] | None, new_classifier: bool
) -> nn.Module:
    if given is None:
        return create(
            options.model or "",
            num_classes=len(names) if names else options.num_classes,
            in_chans=options.in_chans,
            img_size=options.img_size,
            arguments=model_kwargs(options),
            pretrained=options.pretrained,
        )
    channels, height, _ = given.preprocessing.input_size
    other_input = (options.in_chans or channels, options.img_size or height) != (channels, height)
    if not new_classifier and not other_input:
        return given.model
    classes = len(names) if new_classifier and names else int(given.model.num_classes)  # type: ignore[arg-type]
    return load_adapted(given.path, classes, options)


def _as_it_is(options: DenseOptions) -> DenseOptions:
    """The options without what changes input or outputs of a checkpoint to be fine-tuned."""
    return replace(
        options,
        num_classes=None if options.epochs else options.num_classes,
        img_size=None,
        in_chans=None,
        mean=None,
        std=None,
        interpolation=None,
        crop_pct=None,
    )


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
