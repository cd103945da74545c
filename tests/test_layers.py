"""Imports run one way: read from the sources, functions' own imports included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastnll

ROOT = Path(fastnll.__file__).parent

# Lowest first; a module may import what stands in its own line or above it.
LAYERS = (
    ("errors", "dtypes", "events", "buffers"),
    ("arrays", "config", "options", "arrayfiles", "history"),
    ("kernels",),
    ("plan", "system"),
    ("weights",),
    ("ops",),
    ("clipping", "schedules"),
    ("losses", "named", "accumulate", "optim"),
    ("models",),
    ("objective",),
    ("sampling", "checkpoint"),
    ("callbacks",),
    ("training", "distributed"),
    ("runs", "plots", "bench"),
    ("cli",),
)
# Parts that stand beside the line of layers, with all of ours that they may import.
BESIDE: dict[str, set[str]] = {
    "data": {"errors", "dtypes"},
    "profiling": {"events"},
    "interop": {
        "buffers",
        "ops",
        "losses",
        "errors",
        "dtypes",
        "arrays",
        "config",
        "options",
        "optim",
        "objective",
        "models",
        "data",
        "kernels",
    },
}
# The lowest part of the line that may import a part that stands beside it.
READ_FROM = {"data": "models", "profiling": "training", "interop": None}
HEAVY = {"numba", "torch", "jax", "matplotlib", "pyarrow", "tokenizers", "safetensors", "mpi4py", "tqdm", "sklearn"}
MODULES = sorted(p for p in ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    """Return the part of the package a file belongs to: its first name below fastnll."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, top_level: bool = False) -> list[tuple[int, str]]:
    """Return (line, dotted name) of every import of a file, relative ones made absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        lazy = top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if lazy or typing_only:
            skipped.update(ast.walk(node))
    found = []
    package = ("fastnll", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*start, *([node.module] if node.module else [])))
            # `from fastnll import x` imports the module x where there is one.
            found += [(node.lineno, f"{base}.{a.name}" if base == "fastnll" else base) for a in node.names]
    return found


def level(part: str) -> int | None:
    return next((i for i, parts in enumerate(LAYERS) if part in parts), None)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    for line, name in imports(path):
        if not name.startswith("fastnll."):
            continue
        target = name.split(".")[1]
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if target == part:
            continue
        if part in ("__init__", "__main__"):
            assert target != "interop", where
        elif part in BESIDE:
            assert target in BESIDE[part], where
        elif target in BESIDE:
            lowest = READ_FROM[target]
            assert lowest is not None, where
            assert (level(part) or 0) >= (level(lowest) or 0), where
        else:
            mine, theirs = level(part), level(target)
            assert mine is not None, f"{part} has no layer: add it to LAYERS"
            assert theirs is not None, f"{target} has no layer: add it to LAYERS"
            assert theirs <= mine, where


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_imports_are_made_where_they_are_used(path: Path) -> None:
    """A Numba kernel file is itself imported lazily, by the registry; so is an interop module, by its user."""
    if part_of(path) == "interop" or path.is_relative_to(ROOT / "kernels" / "jit"):
        return
    for line, name in imports(path, top_level=True):
        assert name.split(".")[0] not in HEAVY, f"{path.relative_to(ROOT)}:{line} imports {name} at import time"


def test_the_parts_of_one_layer_form_no_circle() -> None:
    edges = {(part_of(p), n.split(".")[1]) for p in MODULES for _, n in imports(p) if n.startswith("fastnll.")}
    for parts in LAYERS:
        for a in parts:
            assert not any((a, b) in edges and (b, a) in edges for b in parts if b != a)


def test_the_package_only_re_exports() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        documented = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert documented or isinstance(node, ast.Import | ast.ImportFrom | ast.Assign), ast.unparse(node)
