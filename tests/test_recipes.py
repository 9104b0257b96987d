"""Recipes: all can be built, all say how they are run and what the papers report."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable

import pytest

from crowddist import recipes
from crowddist.config import RunConfig, from_json, to_json
from crowddist.data.config import parse_data
from crowddist.data.scenes import find_rule
from crowddist.recipes import RECIPES, summary

Recipe = Callable[[], RunConfig]
by_name = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)


def test_every_recipe_is_in_the_table() -> None:
    tree = ast.parse(inspect.getsource(recipes))
    public = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
              and node.name != "summary"]
    assert sorted(public) == sorted(recipe.__name__ for recipe in RECIPES) and len(set(RECIPES)) == len(RECIPES)


@by_name
def test_it_builds_and_survives_its_json(recipe: Recipe) -> None:
    config = recipe()
    assert config.recipe == recipe.__name__ and from_json(to_json(config)) == config
    assert recipe() == config, "the same every time"
    formats = {parse_data(text).format for text in (config.source, config.target, config.evaluation)}
    assert formats <= {"renderer", "shanghaitech", "gcc", "ucf_qnrf", "ucf_cc_50"}


@by_name
def test_its_docstring_is_a_recipe(recipe: Recipe) -> None:
    words = " ".join((inspect.getdoc(recipe) or "").split())
    assert f"python jobs/adapt.py {recipe.__name__}" in words and "Command:" in words
    told = re.search(r"(Paper's rows?|Paper's setting|Nearest published row): .*\d", words)
    assert told or "paper has no such row" in words
    assert re.search(r"\d+ minutes|a minute|half a day|a GPU and days", words), "what it costs"
    assert summary(recipe).endswith(".") and len(summary(recipe)) < 130


def test_gcc_is_read_by_the_scene_rule_of_its_target() -> None:
    rules = {recipe.__name__: find_rule(recipe().stream.scenes).name for recipe in RECIPES if recipe().stream.scenes}
    published = {f"{paper}gcc_to_{target}": rule for paper in ("", "icassp2020_")
                 for target, rule in (("sha", "SHA"), ("shb", "SHB"))}
    assert rules == {**published, "icassp2020_gcc_to_qnrf": "UCF-QNRF"}


@by_name
def test_target_and_evaluation_share_no_image(recipe: Recipe) -> None:
    config = recipe()
    target, evaluation = parse_data(config.target), parse_data(config.evaluation)
    assert target.format == evaluation.format
    if target.format == "renderer":
        assert (target.look == evaluation.look and target.seed != evaluation.seed
                and target.height_px == evaluation.height_px)
    else:
        # `all` is all of the training data
        apart = {("train", "val"), ("train", "test"), ("all", "test"), ("fold-1-train", "fold-1-test")}
        assert target.place == evaluation.place and (target.split, evaluation.split) in apart


@by_name
def test_source_and_target_are_two_domains(recipe: Recipe) -> None:
    config = recipe()
    source, target = parse_data(config.source), parse_data(config.target)
    assert (source.format, source.place, source.look) != (target.format, target.place, target.look)
