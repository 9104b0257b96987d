"""Changes one place of the code at a time and looks whether a test fails: make test-mutants

Draws places of ops, losses, the plan and the engine with a seed, and for each place one change that Cosmic Ray or
`operators.py` knows: another operator, constant or comparison, a dropped `not`, `min` for `max`, a dropped clamp, a
dropped statement. Only the module's own tests run on such a mutant, in a process forked from one that has imported
PyTorch, for about 1 s. Not drawn are annotations, texts of errors, and bitwise operators in the place of arithmetic,
which would fail at once. A change that no test could see, because results stay the same, is judged by hand, and stands
with its reason in `equivalent.toml`.

Ends with 1 where fewer than 90 % of the others are killed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import json
import math
import os
import random
import re
import resource
import signal
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from operators import OWN  # noqa: E402

MUTATED = ("ops/*.py", "losses/*.py", "data/plan.py", "run/engine.py")
"""Files below crowddist."""
MARKERS = "not slow and not ray"
GOAL = 0.9
LEAST_LIMIT_S = 20.0
"""A mutant that computes for longer than this, and than five times what the tests take without it, hangs."""


class Mutant(NamedTuple):
    module: str
    """Path below crowddist, without its ending."""
    line: int
    before: str
    after: str
    """The changed lines, stripped."""
    operator: str
    occurrence: int
    """What changes them: the place is the operator's n-th in the module."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.module, self.before, self.after

    @property
    def code(self) -> str:
        """All of the module."""
        return str(mutate_code(source_of(self.module), OPERATORS[self.operator], self.occurrence))


class _Bare(ast.NodeTransformer):
    """Leaves out what no test is to see: annotations, texts of errors, imports for type checkers."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)


def bare(code: str) -> str:
    return ast.dump(_Bare().visit(ast.parse(code)))


def source_of(module: str) -> str:
    return (ROOT / "crowddist" / f"{module}.py").read_text()


def _operators() -> dict[str, Operator]:
    theirs = OperatorProvider()
    known = [theirs[name] for name in theirs if not re.search("Binary.*_(LShift|RShift|BitOr|BitAnd|BitXor)$", name)]
    return {operator.__name__: operator() for operator in (*known, *OWN) if not operator.arguments()}


OPERATORS = _operators()


def draw(seed: int, number: int, modules: list[str]) -> list[Mutant]:
    """`number` mutants at different places, all places with equal chances; as many as there are, if fewer."""
    places: dict[tuple[str, Any], list[tuple[str, int]]] = defaultdict(list)
    sources = {module: source_of(module) for module in modules}
    for module, source in sources.items():
        nodes = [node for node in ast_nodes(get_ast(source))
                 if node.type not in ("newline", "string") and getattr(node, "value", "") not in tuple("()[]{},.:=")]
        for name, operator in OPERATORS.items():
            found = [start for node in nodes for start, _ in operator.mutation_positions(node)]
            for occurrence, start in enumerate(found):
                places[module, start].append((name, occurrence))
    unchanged = {module: bare(source) for module, source in sources.items()}
    chance = random.Random(seed)
    drawn: list[Mutant] = []
    for module, start in chance.sample(sorted(places), len(places)):
        if len(drawn) == number:
            break
        for name, occurrence in chance.sample(places[module, start], len(places[module, start])):
            code = mutate_code(sources[module], OPERATORS[name], occurrence)
            with contextlib.suppress(SyntaxError):
                if code and bare(code) != unchanged[module]:
                    changes = list(difflib.unified_diff(sources[module].splitlines(), code.splitlines(), n=0))[2:]
                    before, after = (" ".join(change[1:].strip() for change in changes if change[0] == sign)
                                     for sign in "-+")
                    drawn.append(Mutant(module, start[0], before, after, name, occurrence))
                    break
    return sorted(drawn)


def tests_of(module: str) -> str:
    """A module's own test file, or those of its room where it has none."""
    room, name = module.split("/")
    own = Path("tests", room, f"test_{name}.py")
    return str(own if (ROOT / own).exists() else own.parent)


class _Mutated(importlib.machinery.SourceFileLoader):
    """Loads other code than the file's."""

    def __init__(self, name: str, path: str, code: str) -> None:
        super().__init__(name, path)
        self.code = code

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        return compile(self.code, self.path, "exec")


def run_tests(module: str, code: str | None, scratch: Path, limit_s: float) -> tuple[str, str, float]:
    """Runs a module's tests on a mutant, or on the code as it is where that is None, in a fork.

    Returns "survived", "killed" or "hung", the test that failed, and seconds of CPU.
    """
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit_s), resource.RLIM_INFINITY))
        with (scratch / "output").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        if code is not None:
            place = str(ROOT / "crowddist" / f"{module}.py")
            sys.meta_path.insert(0, _Mutated(f"crowddist.{module.replace('/', '.')}", place, code))
        # Hypothesis's own profile: the same examples each time, and no deadline, which a busy machine would miss.
        answer = pytest.main([tests_of(module), "-x", "-p", "no:cacheprovider", "--hypothesis-profile=ci", "--tb=no",
                              "-rfE", "-m", MARKERS, f"--basetemp={scratch / 'tests'}"])
        imported = [name for name in sys.modules if name.split(".")[0] not in ("crowddist", "tests", "conftest")]
        (scratch / "imported").write_text("\n".join(imported))
        sys.stdout.flush()
        os._exit(int(answer))
    _, status, used = os.wait4(child, 0)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", (scratch / "output").read_text(), re.MULTILINE)
    hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    return ("hung" if hung else "killed" if status else "survived", failed[1] if failed else "",
            used.ru_utime + used.ru_stime)


def main() -> int:
    modules = [str(path.relative_to(ROOT / "crowddist").with_suffix("")) for pattern in MUTATED
               for path in sorted((ROOT / "crowddist").glob(pattern)) if path.stem != "__init__"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=200, help="mutants to draw; 0: all places")
    parser.add_argument("--only", nargs="+", metavar="MODULE", choices=modules, default=modules, help="as ops/nms")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only those that survived in this output")
    parser.add_argument("--output", type=Path, default=Path("mutants.json"))
    options = parser.parse_args()
    os.chdir(ROOT)
    if options.again:
        mutants = [Mutant(**found["mutant"]) for found in json.loads(options.again.read_text())
                   if found["is"] == "survived"]
    else:
        mutants = draw(options.seed, options.number or sys.maxsize, options.only)
    rows = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text())["equivalent"]
    judged = {(row["module"], row["before"], row["after"]) for row in rows}
    results: list[dict[str, Any]] = []
    limits: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        scratch = Path(folder)
        for mutant in mutants:
            if mutant.module not in limits:
                unchanged, test, seconds = run_tests(mutant.module, None, scratch, 600)
                if unchanged != "survived":
                    print((scratch / "output").read_text())
                    raise SystemExit(f"{mutant.module}: {test or 'a test'} fails without a mutant")
                limits[mutant.module] = max(LEAST_LIMIT_S, 5 * seconds)
                for name in (scratch / "imported").read_text().split("\n"):
                    with contextlib.suppress(Exception):  # so that no fork imports it again
                        importlib.import_module(name)
            found, test, seconds = ("equivalent", "", 0.0) if mutant.key in judged else run_tests(
                mutant.module, mutant.code, scratch, limits[mutant.module])
            results.append({"mutant": mutant._asdict(), "is": found, "by": test, "cpu_s": round(seconds, 1)})
            if found == "survived":
                print(f"crowddist/{mutant.module}.py:{mutant.line} survived\n  - {mutant.before}\n  + {mutant.after}",
                      flush=True)
            options.output.write_text(json.dumps(results, indent=1))
    number = {name: sum(found["is"] == name for found in results)
              for name in ("killed", "hung", "survived", "equivalent")}
    able = len(results) - number["equivalent"]
    killed = number["killed"] + number["hung"]
    print(f"seed {options.seed}: {len(results)} mutants, {number['equivalent']} of them equivalent; {killed} of {able} "
          f"killed ({number['hung']} by the time limit)")
    return int(killed < GOAL * able)


if __name__ == "__main__":
    raise SystemExit(main())
