"""The table of runs beside the papers' figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from crowddist import storage
from crowddist.comparison import PAIRS, PUBLISHED, compare, read_result
from crowddist.errors import InputError
from crowddist.methods.config import MethodName
from crowddist.recipes import RECIPES


def result(method: str, *errors: float, recipe: str = "renderer_to_shb", **first: float) -> dict[str, Any]:
    rounds = [{"round": number, "target/mae": mae, "target/rmse": mae + 10, "target/num_images": 79.0} for number, mae in enumerate(errors)]
    rounds[0] |= {f"target/{name}": value for name, value in first.items()}
    return {"run": f"a-{method}", "recipe": recipe, "method": method, "seed": 0, "rounds": rounds}


def test_table_to_the_letter() -> None:
    table = compare([
        result("self_supervision", 80.0, 90.0, 60.0),
        result("bi_knowledge", 40.0, 30.0, recipe="sha_to_shb", regression_mae=50.0, regression_rmse=70.0),
        result("supervised", 20.0),
        result("self_supervision", 0.0, 1.0, recipe="quickstart"),
    ])
    assert table.splitlines() == [
        "run                 recipe           method            seed  images  counter alone  adapted      change  paper           paper's change",
        "------------------  ---------------  ----------------  ----  ------  -------------  -----------  ------  --------------  --------------",
        "a-self_supervision  renderer_to_shb  self_supervision  0     79      80.0 / 90.0    60.0 / 70.0  -25%    22.8 -> 11.4    -50%",
        "a-bi_knowledge      sha_to_shb       bi_knowledge      0     79      50.0 / 70.0    30.0 / 40.0  -40%    21.65 -> 13.38  -38%",
        "a-supervised        renderer_to_shb  supervised        0     79      -              20.0 / 30.0  -       22.8 -> 11      -52%",
        "a-self_supervision  quickstart       self_supervision  0     79      0.0 / 10.0     1.0 / 11.0   -       -               -",
    ]


def test_published_rows_are_of_methods_and_recipes_that_exist() -> None:
    assert {method for rows in PUBLISHED.values() for method in rows} <= {*get_args(MethodName), "translation"}
    assert PAIRS.keys() <= {recipe.__name__ for recipe in RECIPES} and set(PAIRS.values()) == PUBLISHED.keys()


@pytest.mark.parametrize("content", [None, {}, {"rounds": []}, {"rounds": [{"round": 0}]}])
def test_runs_that_say_nothing_are_refused(tmp_path: Path, content: dict | None) -> None:
    if content is not None:
        storage.write_json(storage.join(tmp_path.as_uri(), "result.json"), content)
    with pytest.raises(InputError, match=r"no result.json in|holds no error"):
        read_result(str(tmp_path))
