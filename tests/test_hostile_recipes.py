"""Recipes, policies and sweeps made to do harm: refused by name, in no time, executing nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ceag

from ceag_cli import strictyaml
from ceag_cli.errors import CeagError
from ceag_cli.experiment import Plan
from ceag_cli.options import COMMANDS, DenseOptions
from ceag_cli.recipe import read_project, read_recipe

pytestmark = pytest.mark.usefixtures("empty_folder")


def laughs(levels: int, key: str) -> str:
    """Ten to the power of ``levels`` values in a line each."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join([*lines, f"{key}: *a{levels - 1}"])


def merges(levels: int) -> str:
    lines = ["a0: &a0 {k0: 1}"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}], k{i}: 1}}")
    return "\n".join(lines)


TEXTS: dict[str, str] = {
    "a billion laughs": laughs(9, "eps"),
    "a billion laughs merged": merges(9),
    "an alias of itself": "eps: &a [*a]",
    "an alias of nothing": "eps: *a",
    "nested lists": "eps: " + "[" * 3000,
    "nested mappings": "{a: " * 3000,
    "nested by indentation": "\n".join("  " * i + "- a:" for i in range(300)),
    "code": "eps: !!python/object/apply:os.system ['touch owned']",
    "an object": "eps: !!python/object:os.system {}",
    "a name": "eps: !!python/name:os.system",
    "bytes": "eps: !!binary aGk=",
    "a set": "eps: !!set {a, b}",
    "a tag of one's own": "eps: !mine 3",
    "a key twice": "eps: 1\neps: 2",
    "a key twice in a list": "waivers: [{eps: 1, eps: 2}]",
    "a list as key": "? [a]\n: 1",
    "two documents": "eps: 1\n---\neps: 2",
    "no date": "waivers: [{expires: 2024-13-45}]",
    "a number that is none": "eps: !!int ''",
    "a truth that is none": "eps: !!bool maybe",
    "a date that is none": "eps: !!timestamp soon",
    "half of a surrogate pair": 'eps: "\\uD800"',
    "a NUL": 'eps: "a\\0b"',
    "too long": "# " + "x" * strictyaml.MOST_BYTES,
    "not closed": "eps: [1",
    "a control character": "eps: \x07",
    "a number of 5000 digits": "eps: " + "9" * 5000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("kind", ["recipe", "policy"])
def test_yaml_that_does_harm_is_refused(text: str, kind: str) -> None:
    name = {"policy": "ceag.yaml"}.get(kind, "r.yaml")
    inside = "\n".join(f"  {line}" for line in text.splitlines())
    content = f"audit:\n{inside}\n" if kind == "policy" and "---" not in text else text
    Path(name).write_text(content, encoding="utf-8")
    arguments = {
        "recipe": ("audit", "x.safetensors", "--config", "r.yaml"),
        "policy": ("check",),
        "sweep": ("sweep", "r.yaml"),
    }
    result = ceag(*arguments[kind])
    assert result.exit_code == 2, (result.output, result.exception)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors
    assert all(line.startswith(f"error: {name}") for line in errors)
    assert max(map(len, errors)) < 3000
    assert [path.name for path in Path().iterdir()] == [name]


def said_by(read: Callable[[], object]) -> str:
    """What is said of a file that cannot be used; of one that can, its name."""
    try:
        read()
    except CeagError as error:
        return str(error)
    return "r.yaml: "


WRONG = ["[1, 2]", "{a: 1}", "true", ".inf", "-.inf", ".nan", "1e400", "9" * 400, "2001-01-01"]
WRONG += ["''", "null", "0x" + "f" * 400, "[[]]", "1:30:00", "'a,b'", "-1e400", "'\x1b[31m'"]


@pytest.mark.parametrize("command", COMMANDS)
def test_values_of_wrong_types_are_refused_or_used_never_an_internal_error(command: str) -> None:
    for value in WRONG:
        for key in COMMANDS[command].__dataclass_fields__.keys() - (
            SHARED if command != "dense" else set()
        ):
            Path("r.yaml").write_text(f"{key}: {value}", encoding="utf-8")
            assert said_by(lambda: read_recipe(Path("r.yaml"), command)).startswith("r.yaml: ")


SHARED = {*DenseOptions.__dataclass_fields__} - {"eps"}
"""Keys that are tried with one command alone."""

SWEEPS = [
    "seeds: [.inf]",
    "seeds: [.nan]",
    "sparsities: [.nan]",
    "sparsities: [1e400]",
    "seeds: " + str(list(range(3))) + "\nmethods: {'../../x': {}}",
    "methods: {'a/b': {}}",
    "methods: {'': {}}",
    "methods: {'=cmd': {}}",
    "methods: {'a|b': {}}",
    "methods: {'" + "x" * 300 + "': {}}",
    'methods: {"\\e[31m": {}}',
    'methods: {"a\\nb": {}}',
    "methods: {..: {}}",
    "compare: [1]",
    "dense: [1]",
    "dense: {resume: true}",
]


@pytest.mark.parametrize("text", SWEEPS)
def test_sweeps_that_cannot_be_are_refused(text: str) -> None:
    keys = {"seeds": "[0]", "sparsities": "[0.5]", "methods": "{naive: {method: naive}}"}
    keys = {key: value for key, value in keys.items() if f"{key}:" not in text}
    Path("r.yaml").write_text("\n".join([*(f"{k}: {v}" for k, v in keys.items()), text]))
    with pytest.raises(CeagError, match=r"^r\.yaml"):
        Plan.read(Path("r.yaml"))


TOMLS = {
    "nesting": "a = " + "[" * 10_000,
    "a number of 5000 digits": "a = " + "9" * 5000,
    "another encoding": "[tool.ceag.audit]\neps = 'é'".encode("latin-1"),
    "a table twice": "[tool.ceag.audit]\n[tool.ceag.audit]\n",
    "a word for a table": "[tool]\nceag = 'x'\n",
    "a list for a section": "[tool.ceag]\naudit = [1]\n",
    "infinity": "[tool.ceag.audit]\neps = inf\n",
    "NaN": "[tool.ceag.audit]\neps = nan\n",
    "too long": "# " + "x" * strictyaml.MOST_BYTES,
}


@pytest.mark.parametrize("text", TOMLS.values(), ids=TOMLS.keys())
def test_toml_that_does_harm_is_refused(text: str | bytes) -> None:
    Path("pyproject.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    result = ceag("check")
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stderr.startswith("error: pyproject.toml")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a": 1e999}',
        b'{"a": NaN}',
        b'{"a": 0, "a": 1}',
        b'{"a": true}',
        b'{"a": [1]}',
        b'{"a": -1}',
        b"[1]",
        b"\xff\xfe{",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_class_map_that_is_none_is_refused(content: bytes) -> None:
    from ceag_cli.classes import read_class_map

    Path("map.json").write_bytes(content)
    with pytest.raises(CeagError, match=r"^--class-map map\.json: "):
        read_class_map(Path("map.json"))


def test_what_never_ends_is_not_read_to_its_end() -> None:
    for command in (("audit", "--config", "/dev/zero"), ("sweep", "/dev/zero")):
        result = ceag(*command)
        assert result.exit_code == 2
        assert "/dev/zero: has more than" in result.stderr


# Any text


PIECES = st.sampled_from(
    [
        *("audit:", "eps:", "waivers:", "methods:", "seeds:", " ", "\n", "\n  ", "- ", "[", "]"),
        *("{", "}", ", ", "&a ", "*a", "<<: ", "!!int ", "!!x ", "'", '"', "# ", "? ", ": ", "|"),
        *(">", "%", "@", "`", "---", "...", "\t", "0", "1", ".inf", ".nan", "null", "true", "~"),
        *("1e3", "0x1f", "1:2", "2001-01-01", "a", "\\", "\x00", "\x1b", "\ud800", "\ufeff", "é"),
    ]
)
ANY = st.one_of(
    st.binary(max_size=60),
    st.lists(PIECES, max_size=25).map(
        lambda parts: "".join(parts).encode("utf-8", "surrogatepass")
    ),
)


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_any_text_is_a_recipe_or_refused(content: bytes) -> None:
    for name in ("r.yaml", "ceag.yaml", "pyproject.toml"):
        Path(name).write_bytes(content)
    for read in (
        lambda: read_recipe(Path("r.yaml"), "audit"),
        lambda: read_project("audit"),
        lambda: Plan.read(Path("r.yaml")),
    ):
        assert said_by(read)


WORDS = st.text(st.characters(codec="ascii", exclude_categories=["C"]) | st.just("é"), max_size=8)


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=8,
    )
)
def test_what_is_written_is_read_again(value: object) -> None:
    assert strictyaml.load(yaml.safe_dump(value, allow_unicode=True)) == value
