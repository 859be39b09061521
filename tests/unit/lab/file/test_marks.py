"""YAML with marks: places, YAML 1.2's scalars, and the bounds on hostile files."""

from __future__ import annotations

import pytest

from vnic.lab.file.marks import MAX_BYTES, BadYaml, parse


def test_values_are_those_of_yaml_1_2() -> None:
    text = "[no, 'true', true, ~, 1:30, 0x10, 0o17, 1.5, -3, !!str 5, 1e3, yes]"
    assert parse(text).plain() == ["no", "true", True, None, "1:30", 16, 15, 1.5, -3, "5", 1000.0, "yes"]


def test_keys_are_text() -> None:
    assert parse("1: a\nno: b\n~: c").plain() == {"1": "a", "no": "b", "~": "c"}


def test_places_are_of_keys_and_items() -> None:
    root = parse("a:\n  - b: 1\n  -   c\n")
    assert root.at(("a",)) == (1, 1)
    assert root.at(("a", 0, "b")) == (2, 5)
    assert root.at(("a", 1)) == (3, 7)
    assert root.at(("a", 0, "missing", "deeper")) == (2, 5)


def test_aliases_and_merge_keys_are_followed() -> None:
    text = "base: &b {x: 1, y: 2}\nmine: {<<: *b, y: 3}\nboth: {<<: [*b, {z: 4}]}"
    found = parse(text).plain()
    assert found["mine"] == {"x": 1, "y": 3}
    assert found["both"] == {"x": 1, "y": 2, "z": 4}


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(bomb(), "with its aliases, has more than", id="aliases that multiply"),
        pytest.param(
            "a: &a [*a]", "the alias 'a' has no value before it", id="an alias within its own value"
        ),
        pytest.param("[" * 100_000, "exceeded maximum nesting depth|nested deeper than", id="depth"),
        pytest.param("a: {b: &x 1}\nc: *y", "the alias 'y' has no value before it", id="unknown alias"),
        pytest.param("a: 1\na: 2", "the key 'a' is there twice, first in line 1", id="a key twice"),
        pytest.param("? [a]\n: 1", "a key is not text", id="a key that is a list"),
        pytest.param("a: !!python/object:os.system x", "is not known", id="a tag"),
        pytest.param("a: 1\n---\nb: 2", "more than one document", id="two documents"),
        pytest.param("", "the file is empty", id="empty"),
        pytest.param("x" * (MAX_BYTES + 1), "larger than", id="size"),
        pytest.param("a: [1", "expected", id="no end"),
        pytest.param("[" * 40 + "]" * 40, "nested deeper than", id="some depth"),
        pytest.param("a: \x00", "not allowed", id="a control character"),
        pytest.param("{<<: 3}", "'<<' expects a mapping", id="merge of a number"),
    ],
)
def test_bad_yaml_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadYaml, match=said.replace("'", ".")):
        parse(text)
