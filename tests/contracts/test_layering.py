"""Who may import whom, read from the source without importing it."""

from __future__ import annotations

import ast

import pytest
from layering import FILES, below, imports, reachable, station, top

from lewm_bench.planning.solvers import SOLVERS


def test_the_reader_sees_imports() -> None:
    """The tests below would pass on an empty graph."""
    assert {"lewm_bench.agents.parts.jepa", "lewm_bench.agents.parts.sigreg", "torch"} <= imports(
        "lewm_bench.agents.lewm"
    )
    assert "lewm_bench.agents.oracle" in imports("lewm_bench.evaluation.episodes")  # which agents are below a package
    assert "lewm_bench.report.summarise" not in imports("lewm_bench.report.tables.results")  # for type checkers only
    assert "lightning_fabric" in imports("lewm_bench.train.ranks")  # inside a function
    assert "torch" in imports("lewm_bench.core.torch_rng") and "torch" not in imports(
        "lewm_bench.core.torch_rng", functions=False
    )
    assert {"lewm_bench.planning.agent", "lewm_bench.core.types", "pydantic"} <= reachable("lewm_bench.agents.lewm")
    assert len(FILES) > 40


def test_types_import_nothing_of_ours() -> None:
    assert top(imports("lewm_bench.core.types")) == {"__future__", "collections", "dataclasses", "typing", "numpy"}


def test_solvers_know_a_cost_and_nothing_else() -> None:
    values = {"lewm_bench.core.config", "lewm_bench.core.types"}
    beside = {f"lewm_bench.planning.{name}" for name in ("config", "sampling", *SOLVERS)}
    assert {m for m in reachable("lewm_bench.planning.solvers") if m in FILES} == values | beside
    assert {m for m in reachable("lewm_bench.planning.cost") if m in FILES} == values | {"lewm_bench.planning.config"}


@pytest.mark.parametrize("module", below("lewm_bench.agents"))
def test_agents_import_parts_but_not_each_other(module: str) -> None:
    used = imports(module)
    others = {m for m in used if m.startswith("lewm_bench.agents.") and not m.startswith("lewm_bench.agents.parts.")}
    assert others <= {"lewm_bench.agents.oracle"}
    assert not any(m.startswith("lewm_bench.envs") for m in used)


@pytest.mark.parametrize("module", ["lewm_bench.envs", *below("lewm_bench.envs")])
def test_environments_never_hear_of_agents(module: str) -> None:
    used = reachable(module)
    assert not any(m.startswith("lewm_bench.agents") for m in used)


ROWS = ("core.statistics", "run.records", "understand.records")
# These look up what settings of planners, losses and probes are called, when they are asked.
LOOKS_UP = {f"lewm_bench.report.{name}" for name in ("ablation", "stability", "understanding.published")}
SHOWN = sorted({*below("lewm_bench.report"), *(f"lewm_bench.{name}" for name in ROWS)} - LOOKS_UP)


@pytest.mark.parametrize("module", SHOWN)
def test_reporting_sees_rows(module: str) -> None:
    used = reachable(module)
    assert not {"torch", "transformers", "mujoco", "gymnasium"} & top(used)
    assert not any(m.startswith(("lewm_bench.agents", "lewm_bench.envs")) for m in used)


def calls(module: str) -> set[str]:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("module", [name for name in FILES if station(name) != "cli"])
def test_only_the_command_line_prints(module: str) -> None:
    printing = {"print", "typer.echo", "typer.secho", "click.echo", "sys.stdout.write", "sys.stderr.write"}
    assert not calls(module) & printing


def test_the_command_line_prints() -> None:
    """So the test above looks for the right thing."""
    assert all("typer.echo" in calls(f"lewm_bench.cli.{name}") for name in ("app", "ending", "list"))


@pytest.mark.parametrize("module", FILES)
def test_nothing_of_ours_is_imported_by_its_bare_name(module: str) -> None:
    """The folders are ``lewm_bench.envs`` and ``lewm_bench.agents`` wherever the package is installed."""
    assert not top(imports(module)) & {"envs", "agents"}


RELEASED = "lewm_bench.agents.parts.released"
"""The one writer of torch's own files: that is the layout in which LeWM's authors release weights."""


def pickle_loads(module: str) -> list[str]:
    """The calls of ``torch.load`` that could run what a file says: all but those that take tensors alone."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    return [text for node in loads if "weights_only=True" not in (text := ast.unparse(node))]


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_probed_or_pickled(module: str) -> None:
    source = FILES[module].read_text(encoding="utf-8")
    assert "allow_pickle=True" not in source
    allowed = {"torch.save"} if module == RELEASED else set()
    assert not calls(module) & {"hasattr", "torch.save"} - allowed
    assert not pickle_loads(module)
    assert not top(imports(module)) & {"pickle", "cloudpickle", "dill", "joblib"}


STATIONS = (
    "core", "system", "envs", "data", "record", "train", "planning", "agent", "agents", "evaluation", "understand", "run",
    "report", "api", "cli",
)  # fmt: skip
"""The walk of a frame: a package imports only what stands before it, lazy and type-only imports counted."""


def every_import(module: str) -> set[str]:
    """What a module imports anywhere, for type checkers and when its functions run too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & FILES.keys()) or {node.module}
    return found & FILES.keys()


def test_nothing_stands_beside_the_packages() -> None:
    assert {station(name) for name in FILES} == {"", "__main__", *STATIONS}


@pytest.mark.parametrize("package", STATIONS)
def test_a_package_imports_only_those_before_it(package: str) -> None:
    later = STATIONS[STATIONS.index(package) + 1 :]
    wrong = [f"{n} imports {m}" for n in FILES if station(n) == package for m in every_import(n) if station(m) in later]
    assert not wrong, wrong


def test_no_two_modules_need_each_other() -> None:
    graph = {name: every_import(name) - {name} for name in FILES}
    while leaves := {name for name, needed in graph.items() if not needed & graph.keys()}:
        graph = {name: needed for name, needed in graph.items() if name not in leaves}
    assert not graph, f"in a circle, or behind one: {sorted(graph)}"
