"""The import arrows: a module imports from its own layer and those below, never from above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Lowest first. A name is a package or a module below crowddist; those of one line may import each other.
LAYERS = (
    ("errors", "randomness", "process", "termination", "disclosure"),
    ("storage_names", "storage_cache", "storage_client"),
    ("storage_local", "storage_object"),
    ("storage_lock", "storage_s3"),
    ("storage",),
    ("finished_run",),
    ("ops",),
    ("losses",),
    ("models",),
    ("data",),
    ("methods", "config"),
    ("averaging", "checkpoint", "engine", "predictor"),
    ("labels", "translate", "evaluate", "predict", "drawing", "report", "pictures", "describe", "mlflow_store", "serving", "tracking",
     "tracking_journal", "progress", "comparison", "launcher", "recipes", "cli", "claim", "charts", "page", "predictions", "proxy", "repeat", "search_space",
     "sweep", "system_metrics", "trial_plan", "tuning"),
    ("pipeline", "closing", "preflight", "preflight_machine", "preflight_table"),
    ("distributed",),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = sorted((ROOT / "crowddist").rglob("*.py")) + sorted((ROOT / "jobs").glob("*.py"))


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
            names.update(f"{node.module}.{alias.name}" if node.module == "crowddist" else str(node.module) for alias in node.names)

    Visitor().visit(ast.parse(path.read_text()))
    return names


def layer(module: str) -> str:
    """The layer's name of a module below crowddist."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    inside = path.relative_to(ROOT)
    mine = inside.parts[1].removesuffix(".py") if inside.parts[0] == "crowddist" else "jobs"
    height = HEIGHT.get(mine, len(LAYERS)) if mine != "__init__" else 0
    for module in imported(path, run_time_only=True):
        if module.split(".")[0] == "crowddist" and layer(module) not in ("", "__version__"):
            assert HEIGHT[layer(module)] <= height, f"{inside} imports {module} from above"


def test_every_module_has_a_layer() -> None:
    names = {path.relative_to(ROOT / "crowddist").parts[0].removesuffix(".py") for path in (ROOT / "crowddist").rglob("*.py")}
    assert names - {"__init__"} == set(HEIGHT)


@pytest.mark.parametrize(
    ("library", "allowed"),
    [("ray", "distributed/"), ("mlflow", ("tracking.py", "mlflow_store.py", "serving.py", "system_metrics.py")), ("webdataset", "data/shards.py"),
     ("boto3", "storage_client.py"), ("botocore", ("storage_client.py", "storage_object.py"))],
)
def test_one_importer(library: str, allowed: str | tuple[str, ...]) -> None:
    for path in (ROOT / "crowddist").rglob("*.py"):
        if any(name.split(".")[0] == library for name in imported(path)):
            assert path.relative_to(ROOT / "crowddist").as_posix().startswith(allowed), f"{path} imports {library}"


def test_methods_share_nothing_with_each_other() -> None:
    shared = {f"crowddist.methods.{name}" for name in ("base", "config", "counting", "detecting", "semantics", "terms")}
    for path in (ROOT / "crowddist" / "methods").glob("*.py"):
        if path.name != "table.py":
            own = f"crowddist.methods.{path.stem}_"
            assert {name for name in imported(path) if name.startswith("crowddist.methods") and not name.startswith(own)} <= shared, path
