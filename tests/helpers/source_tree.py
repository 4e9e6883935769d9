"""The package's source as syntax trees, for the guards of the design."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE, CONFIGS = REPOSITORY / "esam_jax", REPOSITORY / "configs"


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def files(*folders: Path) -> list[Path]:
    """Every Python file below the folders; default: the package, and configs/, which is in it."""
    return sorted(file for each in folders or (PACKAGE, CONFIGS) for file in each.rglob("*.py"))


def name(path: Path) -> str:
    """As the guards list a file: "train/loop.py", "configs/sami.py"."""
    root = PACKAGE if path.is_relative_to(PACKAGE) else REPOSITORY
    return path.relative_to(root).as_posix()


def module(path: Path) -> str:
    """ "esam_jax.train.loop"; a package is its __init__."""
    parts = name(path).removesuffix(".py").split("/")
    return ".".join(["esam_jax", *parts]).removesuffix(".__init__")


@functools.cache
def modules() -> dict[str, Path]:
    return {module(path): path for path in files()}


def imports(path: Path) -> Iterator[str]:
    """Every name that a file imports, at any level: "esam_jax.ops.images", "jax.numpy"."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module(path.parent / "__init__.py").split(".") if node.level else []
            package = package[: len(package) - max(0, node.level - 1)]
            start = [*package, *([node.module] if node.module else [])]
            yield from (".".join([*start, alias.name]) for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """The modules of the package that a file imports: the longest part of a name that is one."""
    found = set()
    for each in imports(path):
        parts = each.split(".")
        names = (".".join(parts[:i]) for i in range(len(parts), 1, -1))
        found |= {next((n for n in names if n in modules()), "")}
    return found - {"", "esam_jax"}


def dotted(node: ast.AST) -> str:
    """ "jax._src.xla_bridge" of nested attributes; "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := dotted(node.value)):
        return f"{inner}.{node.attr}"
    return ""
