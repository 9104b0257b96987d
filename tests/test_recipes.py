"""Recipes: all can be built, all say how they are run and what the papers report."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crowddist import recipes
from crowddist.config import RunConfig, flat, from_json, to_json
from crowddist.data.config import parse_data
from crowddist.data.convert.ucf_cc_50 import find
from crowddist.data.scenes import find_rule
from crowddist.errors import InputError
from crowddist.inference.intervals import LEVEL
from crowddist.ops.intervals import fewest_scores
from crowddist.recipes import RECIPES, icassp2020, summary
from crowddist.recipes.folds import folds

Recipe = Callable[[], RunConfig]
by_name = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)


def test_every_recipe_is_in_the_table() -> None:
    public = []
    for module in pkgutil.iter_modules(recipes.__path__):
        tree = ast.parse(Path(recipes.__path__[0], f"{module.name}.py").read_text())
        public += [node.name for node in tree.body if isinstance(node, ast.FunctionDef)
                   and ast.unparse(node.returns or tree) == "RunConfig" and not node.name.startswith("_")]
    assert sorted(public) == sorted(recipe.__name__ for recipe in RECIPES) and len(set(RECIPES)) == len(RECIPES)


@by_name
def test_it_builds_and_survives_its_json(recipe: Recipe) -> None:
    config = recipe()
    assert config.recipe == recipe.__name__ and from_json(to_json(config)) == config
    assert recipe() == config, "the same every time"
    formats = {parse_data(text).format for text in (config.source, config.target, config.evaluation)}
    assert formats <= {"renderer", "shanghaitech", "gcc", "ucf_qnrf", "ucf_cc_50", "worldexpo10"}


@by_name
def test_its_docstring_is_a_recipe(recipe: Recipe) -> None:
    words = " ".join((inspect.getdoc(recipe) or "").split())
    assert f"python jobs/adapt.py {recipe.__name__}" in words and "Command:" in words
    whole = recipe().target.endswith("fold-1-train")
    assert (f"python jobs/folds.py {recipe.__name__}" in words) == whole
    told = re.search(r"(Paper's rows?|Paper's setting|Nearest published row): .*\d", words)
    assert told or "paper has no such row" in words
    assert re.search(r"\d+ minutes|a minute|half a day|a GPU and days", words), "what it costs"
    assert summary(recipe).endswith(".") and len(summary(recipe)) < 130


def test_gcc_is_read_by_the_scene_rule_of_its_target() -> None:
    rules = {recipe.__name__: find_rule(recipe().stream.scenes).name for recipe in RECIPES if recipe().stream.scenes}
    published = {f"{paper}gcc_to_{target}": rule for paper in ("", "icassp2020_")
                 for target, rule in (("sha", "SHA"), ("shb", "SHB"), ("qnrf", "UCF-QNRF"))}
    ablations = {"cvpr2022_dropout": "SHA", "cvpr2022_deep_ensemble": "SHA", "cvpr2022_without_uncertainty": "SHA",
                 "icassp2020_se_alone": "SHB"}
    assert rules == {**published, **ablations, "gcc_to_ucf_cc_50": "UCF_CC_50", "gcc_to_worldexpo10": "WorldExpo'10"}


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
def test_calibration_is_of_the_source_and_shares_no_image_with_it(recipe: Recipe) -> None:
    config = recipe()
    if recipe in PUBLISHED:
        assert config.calibration == "", "they train on all images of the source"
        return
    source, held = parse_data(config.source), parse_data(config.calibration)
    assert (source.format, source.place, source.height_px) == (held.format, held.place, held.height_px)
    if source.format == "renderer":
        used = {parse_data(text).seed for text in (config.source, config.target, config.evaluation)}
        assert source.look == held.look and held.seed not in used and held.num_images >= fewest_scores(LEVEL)
    else:
        assert (source.split, held.split) == ("train", "val")


@by_name
def test_source_and_target_are_two_domains(recipe: Recipe) -> None:
    config = recipe()
    source, target = parse_data(config.source), parse_data(config.target)
    assert (source.format, source.place, source.look) != (target.format, target.place, target.look)


PUBLISHED = [recipe for recipe in RECIPES
             if recipe.__module__.rpartition(".")[2] in ("cvpr2022", "icassp2020", "mm2020")]
published = pytest.mark.parametrize("recipe", PUBLISHED, ids=lambda recipe: recipe.__name__)
ROW = re.compile(r"    ([a-z_0-9]+(?:\.[a-z_0-9]+)?) +(\S+(?: [0-9.]+|recipe)*|by recipe) +(printed|code|ours)\b")


def table_of(recipe: Recipe) -> dict[str, str]:
    """Setting -> value in the table of the recipe's module."""
    text = sys.modules[recipe.__module__].__doc__ or ""
    return {match[1]: match[2] for line in text.splitlines() if (match := ROW.match(line))}


def same(told: str, value: Any) -> bool:
    """Whether a table's text is a setting's value."""
    if isinstance(value, bool):
        return told == ("on" if value else "off")
    if isinstance(value, tuple):
        return [float(word) for word in told.split()] == list(value)
    return told == value if isinstance(value, str) else float(told) == value


@published
def test_the_table_tells_where_each_value_comes_from(recipe: Recipe) -> None:
    config, told = recipe(), table_of(recipe)
    settings = flat(dataclasses.asdict(config))
    usual = flat(dataclasses.asdict(RunConfig(recipe="", source="a", target="b")))
    chosen = {name for name, value in settings.items() if value != usual[name]} - {"recipe", "method"}
    assert {name for name in chosen if not name.startswith("engine.")} <= told.keys() <= settings.keys()
    # A recipe says what it changes.
    own = {name for name in told if "." in name and name in (inspect.getdoc(recipe) or "").replace("-", "_")}
    wrong = {name: (text, settings[name]) for name, text in told.items()
             if text not in ("by recipe", "default") and name not in own and not same(text, settings[name])}
    assert not wrong and len(told) > 30


@published
def test_published_targets_are_whole_and_unchanged_by_colours_and_sizes(recipe: Recipe) -> None:
    config = recipe()
    assert parse_data(config.target).split in ("all", "fold-1-train"), "not the 80 % that our own validation leaves"
    assert (config.stream.colour_jitter, config.stream.grey_share, config.stream.soft_share,
            config.stream.noisy_share) == (0, 0, 0, 0)
    if recipe.__module__ != "crowddist.recipes.mm2020":
        low, high = config.stream.scale_jitter
        assert config.train.block_weight == 0 and parse_data(config.source).format == "gcc" and config.stream.scenes
        if config.method == "self_supervision":
            assert all(low <= view <= high for view in config.self_supervision.label_views)
            assert config.train.density_limit and config.counter.density_factor == 100


def test_semantic_consistency_as_printed() -> None:
    config = icassp2020.icassp2020_gcc_to_shb()
    assert config.stream.crop == (480, 640) and config.boxes == "crowd_human:$CROWDDIST_DATA/crowd_human:train"
    assert (config.train.cell_error, config.semantic_consistency.adversarial_patches) == ("squared_sum", "sum")
    assert config.train.schedule == "constant" and config.train.learning_rate == 1e-5
    alone = icassp2020.icassp2020_se_alone()
    assert alone == replace(config, recipe=alone.recipe, semantic_consistency=replace(config.semantic_consistency,
                                                                                      adversarial_weight=0.0))


def test_five_folds_divide_the_fifty_images(tmp_path: Path) -> None:
    config = next(recipe for recipe in RECIPES if recipe.__name__ == "gcc_to_ucf_cc_50")()
    runs = folds(replace(config, run_name="c50"))
    assert [run.run_name for run in runs] == [f"c50-fold-{fold}" for fold in range(1, 6)]
    assert folds(config)[0] == replace(config, run_name="gcc_to_ucf_cc_50-fold-1")
    for number in range(1, 51):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    tested = []
    for run in runs:
        target, evaluation = parse_data(run.target), parse_data(run.evaluation)
        assert target.place == evaluation.place == "$CROWDDIST_DATA/ucf_cc_50"
        sides = [{item.name for item in find(tmp_path, spec.split, labelled=False).items}
                 for spec in (target, evaluation)]
        assert len(sides[0]) == 40 and len(sides[1]) == 10 and not sides[0] & sides[1]
        tested += sides[1]
        others = {"run_name": "", "target": config.target, "evaluation": config.evaluation}
        assert replace(run, **others) == config, "nothing else changes"
    assert sorted(map(int, tested)) == list(range(1, 51))


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if not recipe().target.endswith("fold-1-train")],
                         ids=lambda recipe: recipe.__name__)
def test_recipes_without_folds_are_refused(recipe: Recipe) -> None:
    with pytest.raises(InputError, match="folds need a recipe whose target and evaluation are the first fold"):
        folds(recipe())
