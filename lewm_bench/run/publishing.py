"""A checkpoint folder on the Hugging Face hub, with a page made from its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lewm_bench.core.errors import UserError
from lewm_bench.core.reading import is_file
from lewm_bench.run.checkpoints import FILES, training_of
from lewm_bench.system.checkpoint import CARD, MEND, WEIGHTS, load_card, load_tensors
from lewm_bench.system.hub import require_repository, upload

PAGE = """---
library_name: lewm-bench
tags: [world-model, {agent}]
---

# {agent} in {env}

A checkpoint of lewm-bench's agent `{agent}`: safetensors and JSON, nothing is unpickled.

    lewm-bench evaluate {agent} --env {env} --seed {seed} --checkpoint hf:{repository}
    lewm-bench understand hf:{repository} --env {env}

Give `--set` what the settings below have that the suite does not; the command says which.

| | |
|---|---|
{rows}

```json
{config}
```
"""


def push_checkpoint(folder: Path, repository: str, private: bool, api: Any = None) -> None:
    """Put a checkpoint folder into a repository of the hub.

    Args:
        repository: OWNER/NAME.
        api: stands in for ``huggingface_hub.HfApi()``.

    Raises:
        UserError: it is no checkpoint, a file of it is damaged or a link to elsewhere, or the hub refuses.
    """
    require_repository(repository)
    card = load_card(folder)
    load_tensors(folder / WEIGHTS)
    training = training_of(folder)
    files: dict[str, Path | bytes] = {name: folder / name for name in FILES if is_file(folder / name)}
    for path in files.values():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} is a link that leaves {folder}; put the file itself there")
    page = page_of(card, training, repository)
    upload(repository, files | {"README.md": page.encode()}, f"lewm-bench checkpoint of {card['agent']}", private, api)


def page_of(card: Mapping[str, Any], training: Mapping[str, Any], repository: str) -> str:
    """The README of a checkpoint, in Markdown.

    Raises:
        UserError: the card does not name agent and environment.
    """
    agent, env = card.get("agent"), card.get("env")
    if not (isinstance(agent, str) and isinstance(env, str)):
        raise UserError(f"the checkpoint's {CARD} does not name agent and environment; {MEND}")
    facts = {name: card.get(name) for name in ("agent", "env", "image_size", "action_dim", "seed", "dataset", "torch")}
    facts |= {"released": card["released"]} if "released" in card else {}
    last = {f"{name} at the end": values[-1] for name, values in training.get("columns", {}).items() if values}
    facts |= ({"seconds of training": training["seconds"]} if training else {}) | last
    rows = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts.items() if value is not None)
    config = json.dumps(card.get("config"), indent=1, sort_keys=True)
    return PAGE.format(
        agent=agent, env=env, seed=card.get("seed") or 0, repository=repository, rows=rows, config=config
    )


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
