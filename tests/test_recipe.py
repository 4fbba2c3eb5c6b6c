from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ceag_cli import initial, methods, pruners
from ceag_cli.declarations import as_given, flag
from ceag_cli.errors import OptionError
from ceag_cli.options import AuditOptions, Command, DenseOptions, MitigateOptions, PruneOptions
from ceag_cli.recipe import as_recipe, differences, dump, read_recipe, resolve
from ceag_cli.stageoptions import METHODS


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds a ceag.yaml that it did not write."""
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def problems(command: type[Command], recipe: str, **given: Any) -> list[str]:
    """What is wrong with a recipe's text."""
    with pytest.raises(OptionError) as caught:
        resolve(command, given, write("r.yaml", recipe))
    return caught.value.problems


# Precedence


def test_nothing_given_leaves_the_defaults() -> None:
    assert resolve(MitigateOptions, {}) == MitigateOptions()
    assert MitigateOptions().eps == 0.02
    assert MitigateOptions().seed == 42


@pytest.mark.parametrize(
    ("flag_given", "in_recipe", "in_project", "expected"),
    [
        (0.1, 0.2, 0.3, 0.1),
        (None, 0.2, 0.3, 0.2),
        (None, None, 0.3, 0.3),
        (None, None, None, 0.02),
        (0.1, None, 0.3, 0.1),
        (0.1, 0.2, None, 0.1),
        (0, 0.2, 0.3, 0),
    ],
)
def test_a_flag_beats_the_recipe_beats_the_project_file_beats_the_default(
    flag_given: float | None,
    in_recipe: float | None,
    in_project: float | None,
    expected: float,
) -> None:
    config = None
    if in_recipe is not None:
        config = write("r.yaml", f"eps: {in_recipe}\n")
    if in_project is not None:
        write("ceag.yaml", f"mitigate:\n  eps: {in_project}\n")
    assert resolve(MitigateOptions, {"eps": flag_given}, config).eps == expected


def test_sources_are_joined_option_by_option() -> None:
    write("ceag.yaml", "mitigate:\n  eps: 0.1\n  epochs: 5\n  buffer: 7\n")
    config = write("r.yaml", "epochs: 6\nbuffer: 8\n")
    options = resolve(MitigateOptions, {"buffer": 9}, config)
    assert (options.eps, options.epochs, options.buffer) == (0.1, 6, 9)


def test_the_project_file_speaks_to_each_command_in_its_own_section() -> None:
    write("ceag.yaml", "dense:\n  epochs: 3\nmitigate:\n  epochs: 4\naudit:\n")
    assert resolve(DenseOptions, {}).epochs == 3
    assert resolve(MitigateOptions, {}).epochs == 4
    assert resolve(PruneOptions, {}).epochs == 0
    assert resolve(AuditOptions, {}) == AuditOptions()


def test_a_recipe_can_be_written_with_the_command_that_it_is_for() -> None:
    assert resolve(DenseOptions, {}, write("r.yaml", "command: dense\nepochs: 3\n")).epochs == 3


def test_an_empty_recipe_is_a_recipe() -> None:
    assert resolve(DenseOptions, {}, write("r.yaml", "# nothing\n")) == DenseOptions()


# Values


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e-3", 0.001), ("0.001", 0.001), ("1", 1.0), (".5", 0.5), ("'0.25'", 0.25), ("5e-1", 0.5)],
)
def test_numbers_are_read_however_yaml_reads_them(text: str, expected: float) -> None:
    """YAML 1.1 takes 1e-3 for a string."""
    lr = resolve(DenseOptions, {}, write("r.yaml", f"lr: {text}\n")).lr
    assert lr == expected
    assert type(lr) is float


@pytest.mark.parametrize("text", ["[0.1, 0.2, 0.3]", "0.1,0.2,0.3", "['0.1', 2e-1, 0.3]"])
def test_lists_are_yaml_lists_or_written_with_commas(text: str) -> None:
    options = resolve(DenseOptions, {}, write("r.yaml", f"mean: {text}\n"))
    assert options.mean == (0.1, 0.2, 0.3)


def test_a_single_value_is_a_list_of_one() -> None:
    options = resolve(DenseOptions, {}, write("r.yaml", "std: 0.5\ndecay_milestones: 3\n"))
    assert options.std == (0.5,)
    assert options.decay_milestones == (3,)


def test_a_number_may_name_a_column() -> None:
    assert resolve(DenseOptions, {}, write("r.yaml", "label_column: 2024\n")).label_column == "2024"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("epochs: 2.5", "r.yaml: epochs: '2.5' is not a whole number"),
        ("epochs: many", "r.yaml: epochs: 'many' is not a whole number"),
        ("epochs: true", "r.yaml: epochs: 'True' is not a whole number"),
        ("epochs: -1", "r.yaml: epochs: -1 must be at least 0"),
        ("epochs: [1, 2]", "r.yaml: epochs: '[1, 2]' is not a whole number"),
        ("lr: fast", "r.yaml: lr: 'fast' is not a number"),
        ("lr: .nan", "r.yaml: lr: 'nan' is not a number"),
        ("lr: .inf", "r.yaml: lr: 'inf' is not a number"),
        ("lr: 0", "r.yaml: lr: 0.0 must be more than 0"),
        ("momentum: 1", "r.yaml: momentum: 1.0 must be less than 1"),
        ("hflip: 1.5", "r.yaml: hflip: 1.5 must be at most 1"),
        ("amp: 1", "r.yaml: amp: '1' is not true or false"),
        ("amp: 'yes'", "r.yaml: amp: 'yes' is not true or false"),
        ("groups_by: no", "r.yaml: groups_by: 'False' is not a word"),
        (
            "sched: linear",
            "r.yaml: sched: 'linear' is not one of cosine, multistep, constant",
        ),
        ("std: [0.5, 0]", "r.yaml: std: 0.0 must be more than 0"),
        ("mean: [0.5, x]", "r.yaml: mean: 'x' is not a number"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(line: str, problem: str) -> None:
    assert problems(DenseOptions, line + "\n") == [problem]


@pytest.mark.parametrize("line", ["eps:", "eps: null", "eps: ~"])
def test_a_key_without_a_value_never_replaces_a_default_by_nothing(line: str) -> None:
    """It is refused, or it means that nothing was given."""
    config = write("r.yaml", line + "\n")
    try:
        options = resolve(MitigateOptions, {}, config)
    except OptionError:
        return
    assert options.eps == 0.02


@pytest.mark.parametrize("value", [0, 0.0, "0", "0.0"])
def test_an_eps_of_zero_is_an_eps(value: Any) -> None:
    assert resolve(AuditOptions, {"eps": value}).eps == 0


# Unknown and duplicate keys


def test_an_unknown_key_is_named_with_the_nearest_known_one() -> None:
    assert problems(DenseOptions, "epoch: 3\n") == [
        "r.yaml: unknown key 'epoch'; did you mean 'epochs'?"
    ]


def test_an_unknown_key_that_is_near_to_nothing_is_named_alone() -> None:
    assert problems(DenseOptions, "zzz: 3\n") == ["r.yaml: unknown key 'zzz'"]


def test_a_key_of_another_command_is_unknown() -> None:
    assert problems(DenseOptions, "sparsity: 0.9\n")[0].startswith("r.yaml: unknown key 'sparsity'")


def test_keys_are_spelled_with_underscores() -> None:
    assert problems(DenseOptions, "batch-size: 3\n") == [
        "r.yaml: unknown key 'batch-size'; did you mean 'batch_size'?"
    ]


def test_a_key_given_twice_is_refused() -> None:
    (problem,) = problems(DenseOptions, "lr: 1\nepochs: 2\nlr: 3\n")
    assert "r.yaml: not valid YAML" in problem
    assert "key given twice: ['lr']" in problem


def test_a_key_given_twice_in_a_section_of_the_project_file_is_refused() -> None:
    write("ceag.yaml", "dense:\n  lr: 1\n  lr: 2\n")
    with pytest.raises(OptionError, match=r"key given twice: \['lr'\]"):
        resolve(DenseOptions, {})


def test_a_section_given_twice_is_refused() -> None:
    write("ceag.yaml", "dense:\n  lr: 1\ndense:\n  epochs: 2\n")
    with pytest.raises(OptionError, match=r"key given twice: \['dense'\]"):
        resolve(DenseOptions, {})


def test_an_unknown_section_is_named_with_the_nearest_one() -> None:
    write("ceag.yaml", "mitigation:\n  eps: 1\n")
    with pytest.raises(OptionError) as caught:
        resolve(DenseOptions, {})
    assert caught.value.problems == [
        "ceag.yaml: 'mitigation' is not a section; did you mean 'mitigate'? "
        "(one section per command: dense, prune, mitigate, audit, explain, exemplars, export; "
        "e.g. 'mitigate: {eps: 0.02}')"
    ]


def test_a_section_that_is_not_a_mapping_is_refused() -> None:
    write("ceag.yaml", "dense: 3\n")
    with pytest.raises(OptionError) as caught:
        resolve(DenseOptions, {})
    assert caught.value.problems == ["ceag.yaml: section 'dense' must hold 'name: value' lines"]


# Everything at once


def test_all_problems_of_all_sources_are_reported_together() -> None:
    write("ceag.yaml", "mitigate:\n  bufer: 3\n  epochs: 0\n")
    config = write("r.yaml", "eps: -1\nmethod: magic\nlr: 0.1\n")
    with pytest.raises(OptionError) as caught:
        resolve(MitigateOptions, {"momentum": 2, "seed": 7}, config)
    assert caught.value.problems == [
        "ceag.yaml, section mitigate: unknown key 'bufer'; did you mean 'buffer'?",
        "ceag.yaml, section mitigate: epochs: 0 must be at least 1",
        "r.yaml: eps: -1.0 must be at least 0",
        f"r.yaml: method: 'magic' is not one of {', '.join(METHODS)}",
        "--momentum: 2.0 must be less than 1",
    ]


# Files that are no recipe


def test_a_recipe_for_another_command_is_refused() -> None:
    assert problems(MitigateOptions, "command: dense\nepochs: 3\n") == [
        "r.yaml: this recipe is for 'ceag dense', not for 'ceag mitigate'"
    ]


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(OptionError) as caught:
        resolve(DenseOptions, {}, "nowhere.yaml")
    assert caught.value.problems == ["nowhere.yaml: there is no such file"]


@pytest.mark.parametrize("text", ["- lr\n", "just words\n", "3\n", "1: 2\n"])
def test_what_is_not_a_mapping_of_names_is_refused(text: str) -> None:
    assert problems(DenseOptions, text) == ["r.yaml: expected 'name: value' lines"]


@pytest.mark.parametrize(
    "text",
    [
        "lr: [1\n",
        "lr: 'x\n",
        "a: b: c\n",
        "? [1, 2]\n: 3\n",
        "lr: !!python/object/apply:os.system ['touch owned']\n",
        "seed: 2024-13-45\n",
        "seed: !!int x\n",
    ],
)
def test_what_is_not_yaml_is_refused(text: str) -> None:
    (problem,) = problems(DenseOptions, text)
    assert problem.startswith("r.yaml: not valid YAML: ")
    assert "\n" not in problem
    assert not Path("owned").exists()


def test_a_recipe_that_is_a_folder_or_not_utf8_is_refused() -> None:
    Path("folder").mkdir()
    Path("latin.yaml").write_bytes(b"model: caf\xe9\n")
    for name in ("folder", "latin.yaml"):
        with pytest.raises(OptionError, match=f"^{name}: cannot be read"):
            resolve(DenseOptions, {}, name)


# Writing a recipe


@pytest.mark.parametrize(
    "options",
    [
        DenseOptions(),
        DenseOptions(
            groups="a/labels.csv",
            model="resnet18",
            model_kwargs=("stem_width=8", "stem_type=deep"),
            mean=(0.5, 0.25, 1e-5),
            label_column="naïve",
            groups_by="race*gender,age",
            lr=1e-05,
            decay_milestones=(1, 2),
            amp=True,
        ),
        PruneOptions(checkpoint="m.safetensors", sparsity=0.9),
        MitigateOptions(eps=0.0, min_count=3, max_multiplier_sum=2.5),
        AuditOptions(dense="d.safetensors", eps=1e-07),
    ],
)
def test_a_written_recipe_reads_back_as_the_same_options(options: Command) -> None:
    recipe = as_recipe(options)
    write("written.yaml", dump(recipe))
    read = resolve(type(options), {}, "written.yaml")
    assert as_recipe(read) == recipe
    assert read_recipe(Path("written.yaml"), recipe["command"]).keys() == recipe.keys() - {
        "command"
    }


def test_an_option_that_is_none_on_purpose_survives_writing() -> None:
    """``buffer=None`` goes by the groups' sizes; under ``--paper`` the default is 40."""
    write("written.yaml", dump(as_recipe(MitigateOptions(paper=True, buffer=None))))
    assert resolve(MitigateOptions, {}, "written.yaml").buffer is None
    assert "buffer" not in as_recipe(MitigateOptions(buffer=None))


def test_what_does_not_change_the_result_is_not_in_the_recipe() -> None:
    here = MitigateOptions(workers=0, output="a.safetensors", resume=True, device="cpu")
    there = MitigateOptions(workers=9, output="b.safetensors", overwrite=True, format="json")
    assert as_recipe(here) == as_recipe(there)


def test_what_changes_the_result_is_in_the_recipe() -> None:
    assert as_recipe(MitigateOptions(batch_size=3)) != as_recipe(MitigateOptions(batch_size=4))
    assert as_recipe(MitigateOptions(amp=True)) != as_recipe(MitigateOptions())
    assert as_recipe(MitigateOptions(seed=1)) != as_recipe(MitigateOptions(seed=2))


def test_differences_name_the_flag_and_both_values() -> None:
    before = as_recipe(DenseOptions(lr=0.1, groups_by="race"))
    now = as_recipe(DenseOptions(lr=0.2, amp=True))
    assert differences(before, now) == [
        "--amp was false and is true",
        '--groups-by was "race" and is null',
        "--lr was 0.1 and is 0.2",
    ]
    assert differences(now, now) == []


def without(recipe: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in names}


def test_an_option_that_was_added_since_had_its_default() -> None:
    now = as_recipe(PruneOptions(sparsity=0.9))
    earlier = without(now, "criterion", "scope", "pattern", "include", "score_batches", "lr")
    assert len(earlier) == len(now) - 4  # two of them are none by default, and never written
    assert differences(earlier, now) == []
    other = as_recipe(PruneOptions(sparsity=0.9, criterion="taylor", score_batches=3))
    assert differences(earlier, other) == [
        '--criterion was "magnitude" and is "taylor"',
        "--score-batches was null and is 3",
    ]
    published = as_recipe(MitigateOptions(paper=True))
    assert differences(without(published, "lr", "buffer", "keep"), published) == []
    # What is written counts, whatever the default is now.
    assert differences(now | {"criterion": "size"}, now) == [
        '--criterion was "size" and is "magnitude"'
    ]


def test_a_flag_is_spelled_with_dashes() -> None:
    assert flag("groups_by") == "--groups-by"


@pytest.mark.parametrize("text", ["''", "' '", "[Black, '']"])
def test_a_text_without_letters_is_not_taken_for_none(text: str) -> None:
    name = "control" if text.startswith("[") else "groups_by"
    assert problems(AuditOptions, f"{name}: {text}\n") == [
        f"r.yaml: {name}: is empty, as an unset variable makes it; give a value, or leave it out"
    ]
    with pytest.raises(OptionError, match="--groups-by: is empty"):
        AuditOptions(groups_by="")
    with pytest.raises(OptionError, match="--config: is empty"):
        resolve(AuditOptions, {}, "")


# What a file says goes by its key


@pytest.mark.parametrize(
    ("command", "check", "section", "warnings"),
    [
        (
            DenseOptions,
            initial.check_options,
            "dense: {model: resnet18, groups: a.csv, use_ema: true}",
            ["use_ema (in ceag.yaml) has no effect without --checkpoint"],
        ),
        (
            PruneOptions,
            pruners.check_options,
            "prune: {sparsity: 0.5, rounds: 3, schedule: one-shot, lr: 0.1}",
            [
                "rounds (in ceag.yaml) has no effect with schedule (in ceag.yaml) one-shot",
                "lr (in ceag.yaml) has no effect without --epochs",
            ],
        ),
        (
            MitigateOptions,
            methods.check_options,
            "mitigate: {method: naive, dual_lr: 0.1}",
            ["dual_lr (in ceag.yaml) has no effect with method (in ceag.yaml) naive"],
        ),
    ],
)
def test_a_warning_names_the_key_and_the_file_of_an_option_without_effect(
    command: type[Command], check: Callable[[Any], list[str]], section: str, warnings: list[str]
) -> None:
    write("ceag.yaml", section)
    assert check(resolve(command, {})) == warnings


def test_a_warning_names_a_flag_by_its_flag_whatever_a_file_says() -> None:
    recipe = write("r.yaml", "dual_lr: 0.2\nwarmup_epochs: 3\n")
    options = resolve(MitigateOptions, {"dual_lr": "0.1", "method": "naive"}, recipe)
    assert methods.check_options(options) == ["--dual-lr has no effect with --method naive"]
    message = "--warmup-epochs beside --warmup-epochs-2 and x--warmup-epochs"
    assert as_given(options, message) == (
        "warmup_epochs (in r.yaml) beside --warmup-epochs-2 and x--warmup-epochs"
    )
