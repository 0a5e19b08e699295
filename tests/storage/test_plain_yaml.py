"""YAML of strangers: values or one line, at once, whatever it is."""

import time

import pytest

from fcit_ray.storage.plain_yaml import MAX_BYTES, YamlError, read_yaml


def bomb(merge: bool) -> str:
    """Ten lines, 9^9 values: each line is nine times the one before."""
    lines = ["a0: &a0 {k: lol}" if merge else "a0: &a0 lol"]
    for number in range(1, 10):
        nine = ", ".join([f"*a{number - 1}"] * 9)
        lines.append(f"a{number}: &a{number} {{<<: [{nine}]}}" if merge else f"a{number}: &a{number} [{nine}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", None),
        ("a: 1\nb: [x, 2.5, null, true]", {"a": 1, "b": ["x", 2.5, None, True]}),
        ("base: &b {x: 1, y: 2}\nmine: {<<: *b, y: 3}", {"base": {"x": 1, "y": 2}, "mine": {"x": 1, "y": 3}}),
    ],
)
def test_plain_values_come_back(text: str, values: object) -> None:
    assert read_yaml(text) == values
    assert read_yaml(text.encode()) == values


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (bomb(merge=False), "line [789]: unfolds to more than 100000 values"),
        (bomb(merge=True), "line [6789]: unfolds to more than 100000 values"),
        ("a: &a [*a]", "line 1: an alias stands for what it is a part of"),
        ("a: &a {b: {c: *a}}", "line 1: an alias stands for what it is a part of"),
        ("[" * 20000, "line 1: nested more than 50 deep"),
        ("{a: " * 20000, "line 1: nested more than 50 deep"),
        ("x" * (MAX_BYTES + 1), "holds 1000001 characters"),
        ("train: {lr: 1}\nseed: 0\ntrain: {lr: 2}", "line 3: key 'train' is there already"),
        ("a: !!python/object/apply:os.system [echo]", "not YAML: .*os.system"),
        ("a: 2001-99-99", "not YAML"),
        ("a: " + "9" * 5000, "not YAML"),
        ("a: [", "not YAML"),
        ("a: \x00", "not YAML"),
        (b"a: \xff", "not YAML"),
        ("a: 1\n---\nb: 2", "not YAML"),
    ],
)
def test_what_is_not_taken_is_told_in_one_line_at_once(text: str | bytes, told: str) -> None:
    began = time.monotonic()
    with pytest.raises(YamlError, match=told) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5.0
