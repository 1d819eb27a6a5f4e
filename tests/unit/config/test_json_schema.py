"""The JSON Schema accepts what the reader accepts, and editors can find mistakes with it."""

import json
import os
import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2dist.config import read
from gpt2dist.config.json_schema import DRAFT, json_schema
from gpt2dist.config.yaml import parse
from tests.support import REPOSITORY

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
COMMITTED = REPOSITORY / "configs/schema.json"
CONFIGURATIONS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def nodes(node, path=()):
    """All subschemas with the path of keys to them."""
    yield path, node
    for name, inside in node.get("properties", {}).items():
        yield from nodes(inside, (*path, name))
    if "items" in node:
        yield from nodes(node["items"], (*path, 0))


def at(path, value):
    """A configuration whose only key is `path`, in as few items and sections as it takes."""
    for step in reversed(path):
        value = [value] if step == 0 else {step: value}
    return value


@pytest.fixture(scope="module")
def reads(tmp_path_factory):
    """Whether the reader accepts a tree. Its sections are overrides, which spares a file for each tree."""
    empty = tmp_path_factory.mktemp("config") / "run.yaml"
    empty.touch()

    def reads(tree):
        _, problems = read(empty, [f"{name}={json.dumps(value)}" for name, value in tree.items()])
        return problems == []

    return reads


def underlined(text):
    """Where a validator finds mistakes in YAML, with the keyword that is violated."""
    return [(list(error.absolute_path), error.validator) for error in VALIDATOR.iter_errors(parse(text))]


def test_the_committed_schema_is_the_current_one():
    """GPT2DIST_UPDATE_DOCS=1 writes it."""
    made = json.dumps(SCHEMA, indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("GPT2DIST_UPDATE_DOCS"):
        COMMITTED.write_text(made, encoding="utf-8")
    assert COMMITTED.read_text(encoding="utf-8") == made


def test_it_is_a_valid_schema_without_references_and_titles_of_classes():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == DRAFT
    found = dict(nodes(SCHEMA))
    assert len(found) > 80
    assert {path for path, node in found.items() if "title" in node} == {()}
    assert {path for path, node in found.items() if {"$ref", "anyOf", "$defs"} & set(node)} == set()
    sections = [node for node in found.values() if "properties" in node]
    assert len(sections) == 17
    assert all(node["additionalProperties"] is False for node in sections)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_configuration_names_the_schema_first_and_follows_it(path):
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=schema.json"
    assert underlined(text) == []
    assert re.findall(r"\d_\d", text) == [], "editors read YAML 1.2, in which 600_000 is text"


@pytest.mark.parametrize(
    ("text", "place", "keyword"),
    [
        ("optimizer: {lr: 1e-3, learning_rat: 3}", ["optimizer"], "additionalProperties"),
        ("optimiser: {lr: 1e-3}", [], "additionalProperties"),
        ("optimizer: {lr: fast}", ["optimizer", "lr"], "type"),
        ("monitoring: {tensorboard: 'yes'}", ["monitoring", "tensorboard"], "type"),
        ("optimizer: {lr: -1}", ["optimizer", "lr"], "exclusiveMinimum"),
        ("schedule: {total_steps: 9_000_000_000}", ["schedule", "total_steps"], "maximum"),
        ("optimizer: {betas: [0.9]}", ["optimizer", "betas"], "minItems"),
        ("optimizer: {betas: [0.9, 1]}", ["optimizer", "betas", 1], "exclusiveMaximum"),
        ("precision: bf15", ["precision"], "enum"),
        ("data: {train: [{path: a}, {weight: 1}]}", ["data", "train", 1], "required"),
        ("data: {validation: [{name: a b, path: c}]}", ["data", "validation", 0, "name"], "pattern"),
    ],
)
def test_a_mistake_is_found_at_its_place(text, place, keyword):
    assert underlined(text) == [(place, keyword)]


def test_the_message_of_a_mistyped_key_names_it():
    (error,) = VALIDATOR.iter_errors({"optimizer": {"learning_rat": 3}})
    assert "'learning_rat' was unexpected" in error.message


VALUES = [
    *(None, True, 0, 1, 4, -1, 10**7 + 1, 10**16 + 1, 0.5, 1.5, 1e-9, 1e30),
    *("", "auto", "none", "bf16", "sdpa", "a b", "a.b-c_d", "3"),
    *([], [None], [1], ["a"], [0.1, 0.2], [0.9, 1], [{"path": "a"}], [{"path": None}]),
    *({}, {"a": None}, {"path": "a"}, {"start": 3, "steps": None}, {"start": None}),
]
"""Values of every type, at and beyond all kinds of limits.

They do not contain what JSON cannot express (numbers that are not finite) and what JSON Schema cannot tell from
an integer (1.0, which the reader refuses for one).
"""


def test_it_accepts_exactly_the_values_that_the_reader_accepts_for_each_key(reads):
    verdicts = {}
    for path, _ in nodes(SCHEMA):
        for number, value in enumerate(VALUES if path else ()):
            tree = at(path, value)
            verdicts[path, number] = (VALIDATOR.is_valid(tree), reads(tree))
    assert [case for case, (valid, read_) in verdicts.items() if valid != read_] == []
    accepted = sum(read_ for _, read_ in verdicts.values())
    assert len(verdicts) > 2000
    assert accepted > 300
    assert len(verdicts) - accepted > 1000


def trees(node):
    """Trees that are mostly valid by a node of the schema."""
    types = [node["type"]] if isinstance(node["type"], str) else node["type"]
    if "enum" in node:
        return st.sampled_from(node["enum"])
    if "properties" in node:
        inside = {name: trees(each) for name, each in node["properties"].items()}
        required = {name: inside.pop(name) for name in node.get("required", ())}
        return st.fixed_dictionaries(required, optional=inside)
    if "array" in types:
        return st.lists(trees(node["items"]), max_size=3)
    plain = {
        "integer": st.integers(0, 10**10),
        "number": st.one_of(st.integers(0, 3), st.floats(0.01, 0.9)),
        "boolean": st.booleans(),
        "string": st.sampled_from(["", "a", "a b", "data/train"]),
        "null": st.none(),
        "object": st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 3)),
    }
    return st.one_of([plain[type_] for type_ in types])


@given(tree=trees(SCHEMA))
def test_it_accepts_exactly_the_configurations_that_the_reader_accepts(tree, reads):
    assert VALIDATOR.is_valid(tree) == reads(tree or {})
