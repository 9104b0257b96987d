from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from crowddist.process.typed_record import of_record


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Record:
    number: int
    name: str = ""
    flag: bool = False
    kind: Literal["one", "two"] = "one"
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[str, ...] = ()
    maybe: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_a_record_becomes_a_dataclass() -> None:
    values = {"number": 3, "name": "a", "flag": True, "kind": "two", "pair": [1, 2.5], "many": ["a", "b"],
              "maybe": None, "inner": {"share": 1}}
    assert of_record(Record, values) == Record(3, "a", True, "two", (1, 2.5), ("a", "b"), None, Inner(1))
    assert of_record(Record, {"number": 3.0, "maybe": 4}) == Record(3, maybe=4)


@pytest.mark.parametrize("change", [
    {"number": 1.5}, {"number": True}, {"number": "1"}, {"number": None}, {"number": 10**400}, {"name": 1}, {"flag": 1},
    {"kind": ["one"]}, {"pair": [1]}, {"pair": [1, "2"]}, {"pair": "ab"}, {"pair": [1, float("inf")]}, {"many": "ab"},
    {"many": [None]}, {"maybe": "1"}, {"inner": []}, {"inner": {"share": []}}, {"inner": {"other": 1}}, {"a\nb": 1}])
def test_another_type_is_refused_by_its_name(change: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as error:
        of_record(Record, {"number": 3, **change})
    (name,) = change
    assert "\n" not in str(error.value) and (name in str(error.value) or name in ("a\nb", "inner"))


def test_what_is_no_object_and_what_is_missing_is_refused() -> None:
    for values in ([], None, {}):
        with pytest.raises(TypeError):
            of_record(Record, values)
