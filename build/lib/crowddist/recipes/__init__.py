"""Recipes: each function is one experiment; its docstring says what it does, its cost and the results to expect.

`cpu` has those for a CPU; `cvpr2022`, `icassp2020` and `mm2020` those as published, each with a table of where every
value comes from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from crowddist.config import RunConfig
from crowddist.recipes.cpu import pretrain, quickstart, renderer_to_sha, renderer_to_shb, sha_to_shb, shb_to_sha, smoke
from crowddist.recipes.cvpr2022 import (
    cvpr2022_deep_ensemble,
    cvpr2022_dropout,
    cvpr2022_without_uncertainty,
    gcc_to_qnrf,
    gcc_to_sha,
    gcc_to_shb,
    gcc_to_ucf_cc_50,
    gcc_to_worldexpo10,
)
from crowddist.recipes.icassp2020 import (
    icassp2020_gcc_to_qnrf,
    icassp2020_gcc_to_sha,
    icassp2020_gcc_to_shb,
    icassp2020_se_alone,
)
from crowddist.recipes.mm2020 import (
    mm2020_five_cycles,
    mm2020_random_patches,
    mm2020_sha_to_shb,
    mm2020_shb_to_sha,
    mm2020_transformer,
    mm2020_without_fusion,
    sha_to_qnrf,
    sha_to_ucf_cc_50,
    shb_to_qnrf,
)

RECIPES: tuple[Callable[[], RunConfig], ...] = (
    quickstart, shb_to_sha, sha_to_shb, renderer_to_shb, renderer_to_sha, gcc_to_sha, gcc_to_shb, gcc_to_qnrf,
    gcc_to_ucf_cc_50, gcc_to_worldexpo10, cvpr2022_dropout, cvpr2022_deep_ensemble, cvpr2022_without_uncertainty,
    mm2020_sha_to_shb, mm2020_shb_to_sha, sha_to_ucf_cc_50, sha_to_qnrf, shb_to_qnrf, mm2020_without_fusion,
    mm2020_random_patches, mm2020_five_cycles, mm2020_transformer, icassp2020_gcc_to_sha, icassp2020_gcc_to_shb,
    icassp2020_gcc_to_qnrf, icassp2020_se_alone, pretrain, smoke,
)


def summary(recipe: Callable[[], RunConfig]) -> str:
    """The first paragraph of a recipe's docstring, in a line."""
    return " ".join((inspect.getdoc(recipe) or "").split("\n\n")[0].split())
