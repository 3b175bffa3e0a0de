"""What every module of ours imports, read from its source."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDE = ("agents", "envs")  # installed inside the package


def files() -> dict[str, Path]:
    """Every module of ours by the name that it is imported under."""
    found = {}
    for folder in ("lewm_bench", *BESIDE):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(("lewm_bench", *parts) if folder in BESIDE else parts)
            found[name.removesuffix(".__init__")] = path
    return found


FILES = files()


def station(module: str) -> str:
    """The package below ours; empty for what stands beside the packages."""
    return module.split(".")[1] if module.count(".") else ""


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def statements(node: ast.AST, functions: bool):
    """All nodes below ``node`` except those that only a type checker sees, and with or without those in functions."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child) or (isinstance(child, ast.FunctionDef) and not functions):
            continue
        yield child
        yield from statements(child, functions)


@cache
def imports(module: str, functions: bool = True) -> frozenset[str]:
    """What a module imports, ours with the submodule that is meant; ``functions``: also when its functions run."""
    found = set()
    for node in statements(ast.parse(FILES[module].read_text(encoding="utf-8")), functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
    return frozenset(found)


def reachable(module: str) -> set[str]:
    """Everything that importing ``module`` imports, through modules of ours, and what its own functions do."""
    seen, waiting = set(imports(module)), [m for m in imports(module) if m in FILES]
    while waiting:
        for name in imports(waiting.pop(), functions=False) - seen:
            seen.add(name)
            if name in FILES:
                waiting.append(name)
    return seen


def top(names) -> set[str]:
    return {name.split(".")[0] for name in names}


def below(package: str) -> list[str]:
    return [name for name in FILES if name.startswith(f"{package}.")]
