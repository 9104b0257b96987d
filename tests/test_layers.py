"""The import arrows: a module imports from its own floor and those below, never from above, and no module imports
itself by a detour.
"""

from __future__ import annotations

import ast
import functools
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Lowest first. A name is a folder or a module below crowddist; those of one floor may import each other.
FLOORS = (
    ("errors", "randomness"),
    ("process",),
    ("storage",),
    ("ops",),
    ("losses",),
    ("models",),
    ("data",),
    ("methods", "config"),
    ("run",),
    ("inference",),
    ("serving", "recipes"),
    ("tracking", "reports"),
    ("launch", "search", "video", "api"),
    ("pipeline", "preflight", "service"),
    ("distributed",),
    ("cli",),
)
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "crowddist").rglob("*.py"))
}
FILES = sorted((ROOT / "crowddist").rglob("*.py")) + sorted((ROOT / "jobs").glob("*.py"))


@functools.cache
def imported(path: Path, *, run_time_only: bool = False) -> set[str]:
    """Modules a file imports, whole names; those for type checkers alone are left out where asked."""
    names: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (run_time_only and "TYPE_CHECKING" in ast.unparse(node.test)):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            names.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else str(node.module)
                         for alias in node.names)

    Visitor().visit(ast.parse(path.read_text()))
    return names


def room(module: str) -> str:
    """The folder or module below crowddist that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def test_imports_point_down() -> None:
    from_above = []
    for path in FILES:
        inside = path.relative_to(ROOT)
        mine = inside.parts[1].removesuffix(".py") if inside.parts[0] == "crowddist" else "jobs"
        height = HEIGHT.get(mine, len(FLOORS)) if mine != "__init__" else 0
        from_above += [f"{inside} imports {module}" for module in imported(path, run_time_only=True)
                       if module.split(".")[0] == "crowddist" and room(module) not in ("", "__version__")
                       and HEIGHT[room(module)] > height]
    assert len(FILES) > 300 and from_above == []


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports for type checkers and those inside functions are counted, but for the package itself, which all modules
    may import for its version: what it offers is named for type checkers alone.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, path in MODULES.items():
        sorter.add(name, *(imported(path, run_time_only=name == "crowddist") & MODULES.keys() - {name}))
    sorter.prepare()  # raises CycleError, which names them


def test_every_room_has_a_floor_and_no_floor_has_more_than_six() -> None:
    names = {path.relative_to(ROOT / "crowddist").parts[0].removesuffix(".py")
             for path in (ROOT / "crowddist").rglob("*.py")}
    assert names - {"__init__", "__pycache__"} == set(HEIGHT)
    assert len(HEIGHT) <= 25 and max(map(len, FLOORS)) <= 6


@pytest.mark.parametrize(
    ("library", "allowed"),
    [("ray", "distributed/"), ("mlflow", ("tracking/", "serving.py")), ("webdataset", "data/shards.py"),
     ("fastapi", "service/"), ("uvicorn", "service/"), ("prometheus_client", "service/metrics.py"),
     ("boto3", "storage/s3_requests.py"), ("botocore", ("storage/s3_requests.py", "storage/s3_object.py"))],
)
def test_one_importer(library: str, allowed: str | tuple[str, ...]) -> None:
    for path in (ROOT / "crowddist").rglob("*.py"):
        if any(name.split(".")[0] == library for name in imported(path)):
            assert path.relative_to(ROOT / "crowddist").as_posix().startswith(allowed), f"{path} imports {library}"


def test_methods_share_nothing_with_each_other() -> None:
    methods = ROOT / "crowddist" / "methods"
    shared = {"crowddist.methods.base", *(f"crowddist.methods.{folder}.{path.stem}" for folder in ("parts", "settings")
                                          for path in (methods / folder).glob("*.py"))}
    for path in methods.glob("*.py"):
        if path.name not in ("table.py", "build.py", "thresholds.py"):
            own = f"crowddist.methods.{path.stem}_"
            assert {name for name in imported(path) if name.startswith("crowddist.methods")
                    and not name.startswith(own)} <= shared, path


def test_no_method_is_named_outside_the_methods_and_the_recipes() -> None:
    """What depends on the method is asked of its row in the table; a default, and the names of settings, are no
    question.
    """
    for path in (ROOT / "crowddist").rglob("*.py"):
        if path.relative_to(ROOT / "crowddist").parts[0] not in ("methods", "recipes"):
            asked = [
                node for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith(".method")
            ]
            assert not asked, f"{path}: {ast.unparse(asked[0])}"
