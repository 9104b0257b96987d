"""The thresholds that a search may change, and the values that it tries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.methods.settings.facts import Parameter
from crowddist.methods.thresholds import lowest_thresholds, own_values, search_space, with_values


def configured(config: RunConfig, method: Any, **settings: Any) -> RunConfig:
    return replace(config, method=method, bi_knowledge=BiKnowledgeConfig(**settings))


def names(config: RunConfig) -> list[str]:
    return [parameter.name.rpartition(".")[2] for parameter in search_space(config)]


def test_the_space_is_what_the_labels_depend_on(tiny_config: RunConfig) -> None:
    assert names(tiny_config) == ["min_certainty"]
    assert names(configured(tiny_config, "combined")) == ["min_certainty", "confidence", "weight_exponent"]
    of_both = ["confidence", "localiser_threshold", "merge_px"]
    assert names(configured(tiny_config, "bi_knowledge")) == [*of_both, "density_range"]
    assert names(configured(tiny_config, "bi_knowledge", fusion="confidence",
                            patches="random")) == [*of_both, "weight_exponent"]
    assert names(configured(tiny_config, "bi_knowledge", fusion="none")) == ["confidence", "density_range"]
    with pytest.raises(InputError, match="source_only makes no labels"):
        search_space(configured(tiny_config, "source_only"))


def test_what_labels_leave_open_is_never_counted(tiny_config: RunConfig) -> None:
    lowest = {sure: search_space(configured(tiny_config, "bi_knowledge", sure_confidence=sure,
                                            doubtful_confidence=0.2))[0].low for sure in (0.0, 0.4)}
    assert lowest == {0.0: 0.1, 0.4: 0.2}


def test_own_values_change_nothing(tiny_config: RunConfig) -> None:
    for method in ("self_supervision", "bi_knowledge", "combined"):
        config = configured(tiny_config, method, density_range=(0.3, 0.9), merge_px=7, fusion="confidence")
        assert with_values(config, own_values(config)) == config


def test_values_by_hand(tiny_config: RunConfig) -> None:
    config = configured(tiny_config, "bi_knowledge")
    changed = with_values(config, {"bi_knowledge.merge_px": 11.0, "bi_knowledge.density_range": 0.75,
                                   "bi_knowledge.confidence": 0.4}).bi_knowledge
    assert (changed.merge_px == 11 and isinstance(changed.merge_px, int)
            and changed.density_range == pytest.approx((0.75, 0.95)))
    assert changed.confidence == 0.4 and changed.localiser_threshold == config.bi_knowledge.localiser_threshold
    assert lowest_thresholds(config).bi_knowledge == replace(config.bi_knowledge, confidence=0.25,
                                                             localiser_threshold=0.1)
    assert lowest_thresholds(configured(tiny_config, "bi_knowledge",
                                        confidence=0.02)).bi_knowledge.confidence == 0.02, "its own is lower still"


@pytest.mark.parametrize(("values", "message"), [
    ({"bi_knowledge.confidnce": 0.5}, "no threshold is called bi_knowledge.confidnce; known: bi_knowledge.confidence"),
    ({"confidence": 0.5}, "no threshold is called confidence"),
    ({"seed": 1.0}, "no threshold is called seed"),
    ({"bi_knowledge.confidence": 1.5}, r"confidence lies in \(0, 1\)"),
])
def test_values_that_cannot_be(tiny_config: RunConfig, values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_values(configured(tiny_config, "bi_knowledge"), values)


def test_scales_by_hand() -> None:
    ranges = {scale: Parameter(name="a.b", low=1, high=16, scale=scale) for scale in ("even", "log", "whole")}
    assert [ranges["even"].at(share) for share in (0, 0.5, 1)] == [1, 8.5, 16]
    assert [ranges["log"].at(share) for share in (0, 0.5, 1)] == [1, 4, 16]
    assert [ranges["whole"].at(share) for share in (0, 0.51, 1)] == [1, 9, 16]
