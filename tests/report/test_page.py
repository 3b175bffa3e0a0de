"""What a reader can do with the page: sort, play, save, paste, print; with a browser where there is one."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from test_plots import EYES, lab
from test_report import DINO, ENV, LEWM, RANDOM, absent, cell, parse, small

from lewm_bench.agents import AGENTS
from lewm_bench.data.videos import rollout_video, still, video_name
from lewm_bench.report import summarise as report
from lewm_bench.report import write
from lewm_bench.report.commands import join_command, run_command
from lewm_bench.run.benchmarks import find_file, load
from lewm_bench.run.registry import agent_family
from lewm_bench.run.resolve import resolve

MEDIUM = "lewm_bench/PointMaze-Medium-v0"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser here (looked for {', '.join(BROWSERS)})")


def film(shift: int) -> bytes:
    """Four frames in which a square moves."""
    frames = np.full((4, 24, 24, 3), 220, np.uint8)
    for step, frame in enumerate(frames):
        frame[10:14, shift + 3 * step :][:, :4] = (200, 0, 0)
    return rollout_video(frames, frames[-1], [3, 2, 1, 0], 0.5, "film")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A report with films of two agents, recorded pair by pair in another order than they belong."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "videos").mkdir()
    cells = []
    for agent, hits, seconds in (("lewm", LEWM, [0.4]), ("pldm", DINO, [0.0021]), ("jepa-ema", RANDOM, [130.0])):
        names = tuple(video_name(ENV, agent, 0, 25, pair) for pair in (3, 0)) if agent != "jepa-ema" else ()
        for i, name in enumerate(names):
            (folder / name).write_bytes(film(i))
        cells.append(cell(agent, hits, seconds=seconds, record={"videos": names}))
    write.write_report([*cells, absent("fast-lewm"), cell("random", RANDOM)], folder, "A page")
    return folder


def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


# What can be pasted.


def options(command: str) -> dict[str, list[str]]:
    words = shlex.split(command)
    assert words[:2] == ["lewm-bench", "run"]
    found: dict[str, list[str]] = {}
    for name, value in zip(words[2::2], words[3::2], strict=True):
        found.setdefault(name.removeprefix("--"), []).append(value)
    return found


def resolved(command: str):
    """The suite that the command line would run."""
    told = options(command)
    (agents,), (seeds,), (envs,) = told["agents"], told["seeds"], told["envs"]
    chosen = {"agents": [agents], "seeds": [int(s) for s in seeds.split(",")], "envs": [envs]}
    return resolve(load(find_file(None)), *told["suite"], *told["profile"], **chosen, overrides=told["set"])


def measured(agent: str, env: str, seeds=(0,), offsets=(25, 50), **change) -> list:
    cells = [cell(agent, LEWM, env=env, seed=seed, **change) for seed in seeds]
    records = [c.offsets[0] for c in cells]
    return [
        c.model_copy(update={"offsets": tuple(r.model_copy(update={"goal_offset": o}) for o in offsets)})
        for c, r in zip(cells, records, strict=True)
    ]


def test_a_command_runs_what_limits_of_the_suite_withhold():
    cells = [*measured("lewm", MEDIUM), *measured("lewm", ENV, (0, 1)), *measured("dino-wm", ENV, offsets=(25,))]
    default = resolve(load(find_file(None)), "pointmaze", "quick")
    asked = {job.env.label for job in default.jobs if job.agent == "dino-wm"}
    assert asked == {ENV}
    for env in (ENV, MEDIUM):
        jobs = resolved(run_command(cells, "clean-1", "quick", env, "dino-wm")).jobs
        assert [(j.env.label, j.agent, j.seed, j.goal_offset) for j in jobs] == [(env, "dino-wm", 0, (25, 50))]


def test_a_command_runs_all_strata_of_a_protocol():
    cells = [c for s in ("planning", "plain") for c in measured("lewm", MEDIUM, protocol=f"clean-2/{s}")]
    command = run_command(cells, "clean-2/plain", "quick", MEDIUM, "dino-wm")
    assert resolved(command).settings.evaluate.protocol == "clean-2"
    assert command == run_command(cells, "clean-2/planning", "quick", MEDIUM, "dino-wm")


def test_a_command_keeps_seeds_budget_and_names():
    arm = "lewm:planner.solver=icem:sigreg_weight=0.01"
    budget = {"config": {"training": {"seconds": 120.0, "steps": None}}}
    cells = [*measured(arm, ENV, (1, 2), **budget), *measured("lewm", MEDIUM, **budget)]
    command = run_command(cells, "clean-1", "quick", MEDIUM, arm)
    suite = resolved(command)
    assert suite.settings.training.seconds == 120
    assert [(job.agent, job.seed) for job in suite.jobs] == [(arm, 1), (arm, 2)]
    other = run_command(cells, "clean-1", "quick", MEDIUM, "gcbc")
    (out,), (beside,) = options(command)["out"], options(other)["out"]
    assert out != beside  # a run sets aside what another one left in its folder
    assert Path(out).parent == Path(beside).parent == Path(shlex.split(join_command("pointmaze"))[-1]).parent


def test_a_cell_that_was_not_run_and_its_reason_give_the_command(written):
    checker = parse(html(written))
    command = run_command(report.summarise([cell("lewm", LEWM)], "t").cells, "clean-1", "quick", ENV, "fast-lewm")
    assert checker.text.count(command) == 2  # in the table, and where the reason stands
    assert "weights unavailable, do X" in checker.text and join_command("pointmaze") in checker.text


def test_what_was_run_and_what_failed_give_none(tmp_path):
    write.write_report([cell("lewm", LEWM), absent("pldm", "failed", "NaN")], tmp_path, "t")
    assert 'class="paste"' not in html(tmp_path)


# What can be saved and followed.


def test_tables_carry_their_rows_of_the_csv(tmp_path):
    write.write_report(small(), tmp_path, "t")
    whole = pd.read_csv(tmp_path / "table.csv")
    found = re.findall(r'download="([^"]*)" href="data:text/csv;base64,([^"]*)"', html(tmp_path))
    tables = {name: pd.read_csv(io.BytesIO(base64.b64decode(data))) for name, data in found}
    assert len(tables) == len(found) == whole.groupby(["env", "goal_offset"]).ngroups + 1  # and across environments
    for (env, offset), rows in whole.groupby(["env", "goal_offset"]):
        name = f"{env.split('/')[-1]}-goal-{offset}-steps-ahead.csv"
        pd.testing.assert_frame_equal(tables[name], rows.reset_index(drop=True), check_dtype=False)


def test_agents_that_learn_lead_to_their_papers():
    floors = {"random", "noop", "oracle", "greedy", "straight"}
    cards = {name: agent_family(name).card for name in AGENTS}
    assert {name for name, card in cards.items() if card.papers} == set(AGENTS) - floors
    numbers = [number for card in cards.values() for number in card.papers.values()]
    assert all(re.fullmatch(r"\d{4}\.\d{5}", number) for number in numbers)
    documented = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
    for agent in ("lewm", "fast-lewm", "delta-jepa", "pldm", "dino-wm"):
        (line,) = [line for line in documented.splitlines() if line.startswith(f"| `{agent}` |")]
        assert all(number in line for number in cards[agent].papers.values())


# What moves and what is dark.


def test_a_still_is_the_first_frame_and_only_of_what_moves():
    moving = film(2)
    with Image.open(io.BytesIO(moving)) as first, Image.open(io.BytesIO(still(moving))) as shown:
        difference = np.abs(np.asarray(first.convert("RGB"), int) - np.asarray(shown.convert("RGB"), int))
        assert shown.size == first.size and difference.max() < 12
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "GIF")
    for other in (buffer.getvalue(), moving[:40], b"x" * 11, b""):
        assert still(other) is None


def test_films_stand_by_pair_side_by_side_and_wait_without_a_script(written):
    text = html(written)
    order = re.findall(r"<h3>[^<]*pair (\d)</h3>|<figcaption>(lewm|pldm): ", text)
    assert order == [("0", ""), ("", "lewm"), ("", "pldm"), ("3", ""), ("", "lewm"), ("", "pldm")]
    films = re.findall(r'<details class="film"><summary><img src="data:image/png.*?</summary>(.*?)</details>', text)
    assert len(films) == text.count("data:image/gif") == 4
    assert all(moving.startswith('<img src="data:image/gif') and 'loading="lazy"' in moving for moving in films)


def test_only_our_script_runs(written):
    text = html(written)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def luminance(rgb: np.ndarray) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def in_the_dark(colour: str) -> str:
    """A colour after the page's filter, by the formula of the SVG standard."""
    template = Path(write.__file__).with_name("page.html").read_text(encoding="utf-8")
    (values,) = re.findall(r'<feColorMatrix values="(.*?)"', template)
    matrix = np.array(values.split(), float).reshape(4, 5)
    return to_hex(np.clip(matrix[:3] @ [*to_rgb(colour), 1, 1], 0, 1))


@pytest.mark.parametrize("eye", EYES)
def test_agents_differ_in_the_dark_for_every_eye_and_stand_out(eye):
    night = {name: in_the_dark(agent_family(name).card.colour) for name in AGENTS}
    seen = {agent: lab(colour, EYES[eye]) for agent, colour in night.items()}
    closest = min((np.linalg.norm(seen[a] - seen[b]), a, b) for a, b in combinations(seen, 2))
    assert closest[0] > 9.5, closest
    paper, ink = (luminance(np.array(to_rgb(in_the_dark(c)))) + 0.05 for c in ("white", "black"))
    assert ink / paper > 15
    assert min((luminance(np.array(to_rgb(c))) + 0.05) / paper for c in night.values()) > 1.8  # on white: 1.6


# In a browser.


def browse(text: str, script: str, folder: Path, *flags: str, fragment: str = ""):
    """What a script finds that runs behind the page's own, allowed by its hash like that one."""
    script = f"document.body.dataset.found = JSON.stringify((() => {{{script}}})());"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ")
    path = folder / "page.html"
    path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    dumped = run_browser(folder, "--dump-dom", *flags, path.as_uri() + fragment)
    (found,) = re.findall(r'data-found="(.*?)"', dumped)
    return json.loads(found.replace("&quot;", '"').replace("&amp;", "&"))


def run_browser(folder: Path, *arguments: str) -> str:
    usual = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}")
    return subprocess.run(
        [BROWSER, *usual, *arguments], capture_output=True, encoding="utf-8", timeout=60, check=True
    ).stdout


SORT = """
const table = [...document.querySelectorAll("table")].find((t) => t.tHead.textContent.startsWith("Agent"));
const heads = [...table.tHead.rows[0].cells];
const names = () => [...table.tBodies].map((b) => [...b.rows].map((r) => r.cells[0].textContent));
const found = [[null, names()]];
for (const title of ["Reached at any step", "Plan time"]) {
  const head = heads.find((h) => h.textContent.startsWith(title));
  for (let i = 0; i < 3; i++) { head.querySelector("button").click(); found.push([head.ariaSort, names()]); }
}
return [found, document.querySelectorAll("thead th button").length, document.querySelectorAll("[aria-sort]").length];
"""


@in_a_browser
def test_a_click_sorts_within_the_blocks_as_numbers_and_what_is_missing_last(written, tmp_path):
    found, buttons, marked = browse(html(written), SORT, tmp_path)
    assert buttons > 8 and marked == 0
    block = {
        None: ["lewm", "fast-lewm", "pldm", "jepa-ema"],
        "reached": ["jepa-ema", "pldm", "lewm", "fast-lewm"],  # 20, 70, 90 %, not run
        "time": ["pldm", "lewm", "jepa-ema", "fast-lewm"],  # 2.10 ms, 400 ms, 2.17 min
    }
    back = {name: [*block[name][2::-1], "fast-lewm"] for name in ("reached", "time")}
    expected = [(None, block[None])]
    for name in ("reached", "time"):
        expected += [("ascending", block[name]), ("descending", back[name]), (None, block[None])]
    assert [(order, names[0][1:]) for order, names in found] == expected
    assert all([n[0] for n in names] == ["World models", "Floor"] for _, names in found)
    assert all(names[1][1:] == ["random"] for _, names in found)


PLAY = """
const films = [...document.querySelectorAll("details.film")];
const shown = (f) => [f.open, getComputedStyle(f.querySelector("summary img")).display !== "none"];
const before = films.map(shown);
const buttons = document.querySelectorAll("button.all");
films[3].querySelector("summary").click();
buttons[0]?.click();
return [before, films.map(shown), buttons.length];
"""


@in_a_browser
@pytest.mark.parametrize("calm", [False, True])
def test_films_play_on_a_click_alone(written, tmp_path, calm: bool):
    flags = ["--force-prefers-reduced-motion"] if calm else []
    before, after, buttons = browse(html(written), PLAY, tmp_path, *flags)
    waiting, playing = [False, True], [True, False]
    assert before == [waiting] * 4 and buttons == (0 if calm else 2)
    assert after == [*([waiting] * 3 if calm else [playing, playing, waiting]), playing]


@in_a_browser
def test_folded_parts_open_by_a_link_and_on_paper(written, tmp_path):
    look = 'return [...document.querySelectorAll("details.part.section")].filter((d) => d.open).map((d) => d.textContent.slice(0, 6));'
    again = f"location.hash = '#videos'; {look}"
    assert browse(html(written), look, tmp_path) == []
    assert browse(html(written), again, tmp_path) == ["Videos"]
    printing = 'dispatchEvent(new Event("beforeprint")); const all = [...document.querySelectorAll("details.part")];'
    told = "return [all.length, all.filter((d) => d.open).length, document.querySelectorAll('.film[open]').length];"
    parts, opened, films = browse(html(written), printing + told, tmp_path)
    assert parts == opened > 4 and films == 0


@in_a_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_never_scrolls_sideways_and_plots_stay_readable(written, tmp_path, width: int):
    inside = tmp_path / "inside.html"
    inside.write_text(html(written), encoding="utf-8")
    frame = f'<body><iframe id="f" style="border:0" width="{width}" height="900" src="inside.html"></iframe></body>'
    measure = """
    const page = document.getElementById("f").contentDocument, root = page.documentElement;
    return [root.scrollWidth, Math.round(page.querySelector(".plot img").getBoundingClientRect().width)];
    """
    late = (
        f"window.onload = () => {{ document.body.dataset.found = JSON.stringify((() => {{{measure}}})()); }}; return 0;"
    )
    scrolled, plot = browse(frame, late, tmp_path, "--allow-file-access-from-files")
    assert scrolled <= width and plot >= 640  # tick labels of 10 points are then 10 pixels high
