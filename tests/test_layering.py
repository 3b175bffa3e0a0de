"""Who may import whom, read from the source without importing it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

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


def test_the_reader_sees_imports() -> None:
    """The tests below would pass on an empty graph."""
    assert {"lewm_bench.agents.jepa", "lewm_bench.agents.sigreg", "torch"} <= imports("lewm_bench.agents.lewm")
    assert "lewm_bench.agents.oracle" in imports("lewm_bench.evaluate")  # which agents are below a package
    assert "lewm_bench.report" not in imports("lewm_bench.tables")  # for type checkers only
    assert "lightning_fabric" in imports("lewm_bench.train")  # inside a function
    assert "torch" in imports("lewm_bench.rng") and "torch" not in imports("lewm_bench.rng", functions=False)
    assert {"lewm_bench.planning", "lewm_bench.types", "pydantic"} <= reachable("lewm_bench.agents.lewm")
    assert len(FILES) > 40


def test_types_import_nothing_of_ours() -> None:
    assert top(imports("lewm_bench.types")) == {"__future__", "collections", "dataclasses", "typing", "numpy"}


def test_solvers_know_a_cost_and_nothing_else() -> None:
    values = {"lewm_bench.config", "lewm_bench.types"}
    assert {m for m in reachable("lewm_bench.solvers") if m in FILES} == values
    assert {m for m in reachable("lewm_bench.planning") if m in FILES} == values | {"lewm_bench.solvers"}


@pytest.mark.parametrize("module", below("lewm_bench.agents"))
def test_agents_import_parts_but_not_each_other(module: str) -> None:
    shared = ("nets", "sigreg", "encoders", "tokens", "oracle", "imagination", "linears", "jepa")
    shared += ("goal_policy", "offline")
    if module == "lewm_bench.agents.fast_lewm":  # LeWM with another predictor
        shared += ("lewm", "fast_imagination")
    parts = {f"lewm_bench.agents.{name}" for name in shared}
    used = imports(module)
    assert {m for m in used if m.startswith("lewm_bench.agents")} <= parts
    above = {"evaluate", "run", "runner", "suite", "report", "cli", "registry"}
    assert not used & {f"lewm_bench.{name}" for name in above}
    assert not any(m.startswith("lewm_bench.envs") for m in used)


@pytest.mark.parametrize("module", ["lewm_bench.envs", *below("lewm_bench.envs")])
def test_environments_never_hear_of_agents(module: str) -> None:
    used = reachable(module)
    assert not any(m.startswith("lewm_bench.agents") for m in used)
    assert not used & {f"lewm_bench.{name}" for name in ("agent", "planning", "train", "evaluate", "runner")}


REPORTING = ("report", "tables", "plots", "page", "statistics", "records", "figures.paths", "figures.distance")
UNDERSTOOD = ("report", "sentences", "tables", "figures", "event_figures", "map_figures", "records")


@pytest.mark.parametrize("name", [*REPORTING, *(f"understanding.{name}" for name in UNDERSTOOD)])
def test_reporting_sees_rows(name: str) -> None:
    used = reachable(f"lewm_bench.{name}")
    assert not {"torch", "transformers", "mujoco", "gymnasium"} & top(used)
    assert not any(m.startswith(("lewm_bench.agents", "lewm_bench.envs")) for m in used)


def calls(module: str) -> set[str]:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("module", [name for name in FILES if name != "lewm_bench.cli"])
def test_only_the_command_line_prints(module: str) -> None:
    printing = {"print", "typer.echo", "typer.secho", "click.echo", "sys.stdout.write", "sys.stderr.write"}
    assert not calls(module) & printing


def test_the_command_line_prints() -> None:
    """So the test above looks for the right thing."""
    assert calls("lewm_bench.cli") & {"print", "typer.echo"}


@pytest.mark.parametrize("module", FILES)
def test_nothing_of_ours_is_imported_by_its_bare_name(module: str) -> None:
    """The folders are ``lewm_bench.envs`` and ``lewm_bench.agents`` wherever the package is installed."""
    assert not top(imports(module)) & {"envs", "agents"}


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_probed_or_pickled(module: str) -> None:
    source = FILES[module].read_text(encoding="utf-8")
    assert "allow_pickle=True" not in source
    assert not calls(module) & {"hasattr", "torch.save", "torch.load"}
    assert not top(imports(module)) & {"pickle", "cloudpickle", "dill", "joblib"}
