"""LeWM's released weights: both naming schemes, the sizes, the statistics, every bad file, and the way back."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import outcome
from released_layout import modern, random_tensors, sizes, write_release

from lewm_bench.agents.lewm import LEWM, LeWM, LeWMConfig
from lewm_bench.agents.parts.released import read_released
from lewm_bench.core.errors import UserError
from lewm_bench.core.types import Clip
from lewm_bench.data.collect import CollectConfig, collect
from lewm_bench.run.environments import make_env
from lewm_bench.run.released import PUBLISHED, REPOSITORIES, environment_of
from lewm_bench.system.checkpoint import load_card, load_weights

TWOROOM = "lewm_bench/TwoRoom-v0"
SMALL = 28  # pixels: four patches; all other sizes are the paper's
SCALE = ("--action-mean", "-0.1,0.2", "--action-std", "0.5,0.6")
TO_TWOROOM = ("--env", TWOROOM, *SCALE)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return random_tensors(10, SMALL)


@pytest.fixture(scope="module")
def release(tensors, tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "released", tensors, sizes(10, SMALL))


@pytest.fixture
def lewm_bench(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("LEWM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: outcome(monkeypatch, capsys, *map(str, arguments))


def loaded(folder: Path) -> LeWM:
    card = load_card(folder)
    model = LEWM.build(LeWMConfig(**card["config"]), card["image_size"], card["action_dim"])
    load_weights(model, folder)
    return model


@pytest.mark.parametrize("naming", [str, modern])
def test_a_release_of_either_naming_becomes_a_checkpoint(lewm_bench, tensors, tmp_path, naming) -> None:
    named = {naming(name): tensor for name, tensor in tensors.items()}
    assert len(named) == 303
    source = write_release(tmp_path / "source", named, sizes(10, SMALL))
    assert lewm_bench("import", "lewm-weights", source, "--out", "mine", *TO_TWOROOM) == (0, "mine\n", "")
    model = loaded(tmp_path / "mine")
    for name, tensor in tensors.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.action_scale.mean.tolist() == pytest.approx([-0.1, 0.2])
    assert model.action_scale.std.tolist() == pytest.approx([0.5, 0.6])
    card = load_card(tmp_path / "mine")
    assert (card["agent"], card["env"], card["image_size"], card["action_dim"]) == ("lewm", TWOROOM, SMALL, 2)
    assert (card["config"]["history"], card["config"]["frame_skip"], card["seed"]) == (3, 5, None)
    assert card["released"]["source"] == "source" and "--action-mean" in card["released"]["action_statistics"]


def test_names_of_the_installed_transformers_are_understood() -> None:
    """Whichever of the two it is: the names of its own ViT become ours."""
    from transformers import ViTConfig, ViTModel

    from lewm_bench.agents.parts.nets import ViT
    from lewm_bench.agents.parts.released import renamed

    small = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    theirs = ViTModel(ViTConfig(**small, image_size=28, patch_size=14), add_pooling_layer=False)
    ours = ViT(28, width=12, depth=2).state_dict()
    assert {renamed(f"encoder.{name}") for name in theirs.state_dict()} == {f"encoder.{name}" for name in ours}


def test_the_sizes_of_cube_and_of_another_history(tmp_path) -> None:
    source = write_release(tmp_path / "cube", random_tensors(25, SMALL, 1), sizes(25, SMALL, 1))
    found = read_released(source)
    assert (found.block, found.image_size, found.settings) == (25, SMALL, {"history": 1, "dropout": 0.1})


# Statistics and environments.


def test_the_statistics_come_from_a_dataset(lewm_bench, release, tmp_path) -> None:
    dataset = collect(make_env(TWOROOM, SMALL), CollectConfig(episodes=10, steps=12), 0, tmp_path / "data")
    folder = dataset.folder
    assert lewm_bench("import", "lewm-weights", release, "--out", "mine", "--env", TWOROOM, "--data", folder)[0] == 0
    mean, std = dataset.action_statistics("train")
    scale = loaded(tmp_path / "mine").action_scale
    assert np.array_equal(scale.mean, mean) and np.array_equal(scale.std, std)
    assert dataset.fingerprint in load_card(tmp_path / "mine")["released"]["action_statistics"]
    arguments = ("import", "lewm-weights", release, "--out", "other", "--data", folder, "--env")
    status, _, err = lewm_bench(*arguments, "lewm_bench/Wall-v0")
    assert status == 2 and f"is data of {TWOROOM}, not of lewm_bench/Wall-v0" in err


def test_published_statistics_are_dino_wms_for_pusht_and_no_others() -> None:
    assert set(PUBLISHED) == {"lewm_bench/PushT-v0"}
    pusht = PUBLISHED["lewm_bench/PushT-v0"]
    assert (pusht.mean, pusht.std) == ((-0.0087, 0.0068), (0.2019, 0.2002)) and "DINO-WM" in pusht.source


def test_the_authors_releases_have_environments() -> None:
    assert environment_of("lewm", "hf:quentinll/lewm-pusht", "") == "lewm_bench/PushT-v0"
    assert environment_of("lewm", "hf:quentinll/lewm-pusht", "mine:Other-v0") == "mine:Other-v0"
    assert len(REPOSITORIES) == 4
    with pytest.raises(UserError, match="do not say their environment"):
        environment_of("lewm", "folder", "")


MISTAKES = [
    (("--env", TWOROOM), [f"none are published for {TWOROOM}", "--action-mean", "--data"]),
    ((), ["do not say their environment", "--env ID"]),
    (("--env", "lewm_bench/TwoRom-v0", *SCALE), ["did you mean 'lewm_bench/TwoRoom-v0'?"]),
    (("--env", TWOROOM, *SCALE, "--data", "."), ["from --data or from --action-mean", "not from both"]),
    (("--env", TWOROOM, "--action-mean", "1,2"), ["as many finite numbers each"]),
    (("--env", TWOROOM, "--action-mean", "1,2", "--action-std", "1,0"), ["deviations above 0"]),
    (("--env", TWOROOM, "--action-mean", "1,nan", "--action-std", "1,1"), ["finite numbers"]),
    (("--env", TWOROOM, "--action-mean", "1,x", "--action-std", "1,1"), ["--action-mean takes comma-separated numbers"]),
    (("--env", TWOROOM, "--action-mean", "1", "--action-std", "1"), ["has 2 numbers", "have 1"]),
    (("--env", TWOROOM, "--data", "nowhere"), ["nowhere"]),
    ((*TO_TWOROOM, "--frame-skip", "4"), ["blocks of 10 numbers, but 4 actions", "have 8", "--env", "--frame-skip"]),
    ((*TO_TWOROOM, "--out", "full"), ["full is there already", "--out"]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), MISTAKES)
def test_a_mistake_is_one_line(lewm_bench, release, tmp_path, options, says) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    refused(lewm_bench("import", "lewm-weights", release, "--out", "mine", *options), says, tmp_path / "mine")


def refused(result: tuple[int, str, str], says: list[str], out: Path) -> None:
    status, shown, err = result
    assert status == 2 and not shown, err
    assert len(err.splitlines()) == 1 and all(part in err for part in says), err
    assert not out.exists()


# Bad files.


class Evil:
    """What must not run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def without(name: str) -> Callable[[dict], dict]:
    return lambda found: {key: value for key, value in found.items() if key != name}


def changed(name: str, make: Callable[[torch.Tensor], Any]) -> Callable[[dict], dict]:
    return lambda found: found | {name: make(found[name])}


def nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone().fill_(float("nan"))


QUERY = "encoder.encoder.layer.3.attention.attention.query.weight"
BAD_TENSORS = {
    "missing": (without("pred_proj.net.3.bias"), ["1 missing (first: pred_proj.net.3.bias)"]),
    "extra": (lambda found: found | {"decoder.weight": torch.zeros(1)}, ["1 unexpected (first: decoder.weight)"]),
    "shape": (changed(QUERY, lambda t: t[:-1].clone()), [f"1 of another shape (first: {QUERY})"]),
    "dtype": (changed(QUERY, torch.Tensor.double), [f"1 of another type (first: {QUERY})"]),
    "half": (changed(QUERY, torch.Tensor.half), ["of another type"]),
    "nan": (changed(QUERY, nan), ["not finite", QUERY, "fetch the files of the release again"]),
    "infinite statistics": (changed("projector.net.1.running_var", lambda t: t / 0), ["not finite", "running_var"]),
    "both names": (lambda found: found | {modern(QUERY): found[QUERY]}, ["holds tensors twice"]),
    "nested": (lambda found: {"state_dict": found}, ["is not a state dict"]),
    "a list": (lambda found: list(found.values()), ["is not a state dict"]),
    "a number": (changed(QUERY, lambda t: 3), ["is not a state dict"]),
    "sparse": (changed(QUERY, torch.Tensor.to_sparse), ["is not a state dict"]),
    "an object": (lambda found: found | {"x": Evil()}, ["holds more than tensors"]),
    "empty": (lambda found: {}, ["the tensor encoder.embeddings.position_embeddings is missing"]),
    "no positions": (without("predictor.pos_embedding"), ["the tensor predictor.pos_embedding is missing"]),
    "flat positions": (changed("predictor.pos_embedding", lambda t: t.flatten()), ["history 3"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_bad_tensors_are_one_line_and_nothing_is_written(lewm_bench, tensors, tmp_path, kind) -> None:
    make, says = BAD_TENSORS[kind]
    source = write_release(tmp_path / "source", make(tensors), sizes(10, SMALL))
    result = lewm_bench("import", "lewm-weights", source, "--out", "mine", *TO_TWOROOM)
    refused(result, [*says, "weights.pt" if kind != "flat positions" else "config.json"], tmp_path / "mine")
    assert not (tmp_path / "ran").exists()


def set_to(*path: str, value: Any) -> Callable[[dict], dict]:
    def make(found: dict) -> dict:
        place = found
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return found

    return make


def dropped(*path: str) -> Callable[[dict], dict]:
    def make(found: dict) -> dict:
        place = found
        for name in path[:-1]:
            place = place[name]
        del place[path[-1]]
        return found

    return make


BAD_SIZES = {
    "no predictor": (dropped("predictor"), ["predictor.num_frames"]),
    "no projector": (dropped("projector"), ["projector.input_dim is None"]),
    "no heads": (dropped("predictor", "heads"), ["predictor.heads is None and not 16"]),
    "other heads": (set_to("predictor", "heads", value=8), ["predictor.heads is 8 and not 16", "paper's size"]),
    "small encoder": (set_to("encoder", "size", value="small"), ["encoder.size is 'small' and not 'tiny'"]),
    "history 1": (set_to("predictor", "num_frames", value=1), ["says history 1", "predictor.pos_embedding"]),
    "other images": (set_to("encoder", "image_size", value=224), ["says images of 224"]),
    "huge images": (set_to("encoder", "image_size", value=14 * 10**9), ["says images of 14000000000"]),
    "odd images": (set_to("encoder", "image_size", value=30), ["multiple of 14"]),
    "other actions": (set_to("action_encoder", "input_dim", value=25), ["says action blocks of 25"]),
    "a text": (set_to("action_encoder", "input_dim", value="10"), ["action_encoder.input_dim", "whole number"]),
    "true": (set_to("predictor", "num_frames", value=True), ["predictor.num_frames", "whole number"]),
    "a list": (set_to("encoder", value=[1]), ["encoder.image_size"]),
    "dropout": (set_to("predictor", "dropout", value=1.5), ["predictor.dropout"]),
    "not an object": (lambda found: [found], ["not a JSON object"]),
    "not JSON": (lambda found: "{", ["is damaged"]),
}


@pytest.mark.parametrize("kind", BAD_SIZES)
def test_a_bad_config_is_one_line_and_nothing_is_written(lewm_bench, release, tmp_path, kind) -> None:
    make, says = BAD_SIZES[kind]
    source = tmp_path / "source"
    source.mkdir()
    os.link(release / "weights.pt", source / "weights.pt")
    config = make(sizes(10, SMALL))
    (source / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    result = lewm_bench("import", "lewm-weights", source, "--out", "mine", *TO_TWOROOM)
    refused(result, [*says, "config.json"], tmp_path / "mine")


def test_the_entries_that_change_nothing_may_be_missing_or_new(release, tmp_path) -> None:
    config = sizes(10, SMALL)
    for name in ("pretrained", "use_mask_token"):
        del config["encoder"][name]
    del config["predictor"]["emb_dropout"], config["projector"]["norm_fn"]
    (tmp_path / "weights.pt").write_bytes((release / "weights.pt").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"later": 1}))
    assert len(read_released(tmp_path).tensors) == 303


BAD_FILES = {
    "a pickle": (lambda good: pickle.dumps(Evil()), ["holds more than tensors"]),
    "plain text": (lambda good: b"version https://git-lfs.github.com/spec/v1\n", ["is damaged"]),
    "truncated": (lambda good: good[:-1000], ["is damaged"]),
    "half": (lambda good: good[: len(good) // 2], ["is damaged"]),
    "empty": (lambda good: b"", ["is damaged"]),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_state_dict_is_one_line(lewm_bench, release, tmp_path, kind) -> None:
    make, says = BAD_FILES[kind]
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes((release / "config.json").read_bytes())
    (source / "weights.pt").write_bytes(make((release / "weights.pt").read_bytes()))
    result = lewm_bench("import", "lewm-weights", source, "--out", "mine", *TO_TWOROOM)
    refused(result, [*says, "weights.pt"], tmp_path / "mine")
    assert not (tmp_path / "ran").exists()


def test_an_object_in_a_whole_file_of_torch_does_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    torch.save(Evil(), buffer)
    (tmp_path / "weights.pt").write_bytes(buffer.getvalue())
    (tmp_path / "config.json").write_text(json.dumps(sizes(10, SMALL)))
    with pytest.raises(UserError, match="holds more than tensors"):
        read_released(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.pt", "config.json"])
def test_links_that_leave_the_folder_and_missing_files_are_one_line(lewm_bench, release, tmp_path, name) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for other in {"weights.pt", "config.json"} - {name}:
        os.link(release / other, source / other)
    command = ("import", "lewm-weights", source, "--out", "mine", *TO_TWOROOM)
    refused(lewm_bench(*command), [f"{name} is missing", "a release has"], tmp_path / "mine")
    (source / name).symlink_to(release / name)
    refused(lewm_bench(*command), [f"{name} is a link that leaves"], tmp_path / "mine")
    (source / name).unlink()
    (source / name).mkdir()
    refused(lewm_bench(*command), [name, "it is a folder"], tmp_path / "mine")


# PLDM as stable-worldmodel saves it has the same tensors and sizes, and its own name.


def named(config: dict, target: str) -> dict:
    return {**config, "_target_": target}


PLDM, LEWM_ = "stable_worldmodel.wm.pldm.pldm.PLDM", "stable_worldmodel.wm.lewm.LeWM"


def test_pldm_there_and_back(lewm_bench, tensors, tmp_path) -> None:
    source = write_release(tmp_path / "source", tensors, named(sizes(10, SMALL), PLDM))
    assert lewm_bench("import", "pldm-weights", source, "--out", "mine", *TO_TWOROOM) == (0, "mine\n", "")
    card = load_card(tmp_path / "mine")
    assert (card["agent"], card["config"]["history"], card["released"]["source"]) == ("pldm", 3, "source")
    assert lewm_bench("export", "pldm-weights", "mine", "--out", "back")[:2] == (0, "back\n")
    back = torch.load(tmp_path / "back" / "weights.pt", weights_only=True)
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert stripped(config) == stripped(sizes(10, SMALL)) and config["_target_"].endswith(".pldm.PLDM")
    says = ["holds 'pldm', not lewm", "`lewm-bench export pldm-weights`"]
    refused(lewm_bench("export", "lewm-weights", "mine", "--out", "other"), says, tmp_path / "other")


@pytest.mark.parametrize(("verb", "target", "own"), [("lewm", PLDM, "pldm"), ("pldm", LEWM_, "lewm")])
def test_weights_of_the_other_agent_are_refused(lewm_bench, release, tmp_path, verb, target, own) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.link(release / "weights.pt", source / "weights.pt")
    (source / "config.json").write_text(json.dumps(named(sizes(10, SMALL), target)))
    says = [f"says that this is {target.rpartition('.')[2]}", f"`lewm-bench import {own}-weights`"]
    refused(lewm_bench("import", f"{verb}-weights", source, "--out", "mine", *TO_TWOROOM), says, tmp_path / "mine")


def test_a_folder_of_pldm_is_no_checkpoint_of_lewm(lewm_bench, tensors, tmp_path, monkeypatch) -> None:
    from lewm_bench.run import released

    monkeypatch.setitem(released.PUBLISHED, TWOROOM, released.ActionStatistics((0.0, 0.0), (1.0, 1.0), "a test"))
    source = write_release(tmp_path / "source", tensors, named(sizes(10, SMALL), PLDM))
    status, _, err = lewm_bench("evaluate", "lewm", *FEW, "--env", TWOROOM, "--checkpoint", source)
    assert status == 2 and "was made with agent 'pldm', but here it is 'lewm'" in err.splitlines()[-1], err


# What takes a checkpoint takes a release.

FEW = (
    "--suite", "tworoom", "--profile", "paper", "--device", "cpu", "--quiet", "--set", "collect.episodes=20",
    "--set", "collect.steps=40", "--set", "evaluate={protocol: clean-1, num_pairs: 2, goal_offset: [5], budget: 5}",
    "--set", "planner={num_samples: 8, num_iterations: 1, num_elites: 3}", "--set", f"image_size={SMALL}",
)  # fmt: skip


@pytest.fixture(scope="module")
def imported(release, tmp_path_factory) -> Path:
    from lewm_bench.run.checkpoints import located
    from lewm_bench.run.released import import_release, statistics_of

    out = tmp_path_factory.mktemp("imported") / "mine"
    import_release(
        "lewm", located(release), out, TWOROOM, statistics_of("lewm", TWOROOM, (0.0, 0.0), (0.5, 0.5), None), 5
    )
    return out


def test_an_imported_checkpoint_is_evaluated(lewm_bench, imported, tmp_path) -> None:
    command = ("evaluate", "lewm", *FEW, "--checkpoint", imported, "--out", "out")
    status, _, err = lewm_bench(*command)
    assert status == 0, err
    (cell,) = (tmp_path / "out" / "cells").glob("*.json")
    record = json.loads(cell.read_text())
    assert record["status"] == "done" and "released weights of" in record["note"]
    assert lewm_bench(*command, "--seed", "3")[0] == 0  # nobody said which seed it was trained with


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("lewm.history=1", ["lewm.history 3, but here it is 1", "--set lewm.history=3"]),
        ("image_size=42", ["image_size 28, but here it is 42", "--set image_size=28", "--profile paper"]),
        ("lewm.frame_skip=2", ["lewm.frame_skip 5, but here it is 2", "--set lewm.frame_skip=5"]),
    ],
)
def test_other_sizes_are_refused_with_what_mends_them_before_data_are_collected(
    lewm_bench, imported, tmp_path, option, says
) -> None:
    status, _, err = lewm_bench("evaluate", "lewm", *FEW, "--set", option, "--checkpoint", imported)
    assert status == 2 and all(part in err.splitlines()[-1] for part in says), err
    assert not list((tmp_path / "cache").rglob("meta.json"))


def test_a_card_of_before_there_was_a_setting_is_believed_to_have_its_default(lewm_bench, imported, tmp_path) -> None:
    card = load_card(imported)
    del card["config"]["dropout"]
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "card.json").write_text(json.dumps(card))
    os.link(imported / "model.safetensors", tmp_path / "older" / "model.safetensors")
    status, _, err = lewm_bench("evaluate", "lewm", *FEW, "--set", "lewm.dropout=0.2", "--checkpoint", "older")
    assert status == 2 and "lewm.dropout 0.1, but here it is 0.2" in err


def test_another_environment_is_refused(lewm_bench, imported) -> None:
    wall = ("--suite", "wall", *FEW[2:])
    status, _, err = lewm_bench("evaluate", "lewm", *wall, "--checkpoint", imported)
    assert status == 2 and f"was made in {TWOROOM}, not in lewm_bench/Wall-v0" in err


def test_a_released_folder_without_published_statistics_says_how_to_import_it(lewm_bench, release) -> None:
    for verb in (("evaluate", "lewm", *FEW, "--checkpoint", release), ("understand", release)):
        status, _, err = lewm_bench(*verb, "--env", TWOROOM)
        assert status == 2 and "lewm-bench import lewm-weights" in err and len(err.splitlines()) == 1
    status, _, err = lewm_bench("speed", "--checkpoint", release)
    assert status == 2 and "do not say their environment" in err


def test_a_released_folder_with_published_statistics_is_a_checkpoint(
    lewm_bench, release, tmp_path, monkeypatch
) -> None:
    from lewm_bench.run import released
    from lewm_bench.run.checkpoints import checkpoint_folder
    from lewm_bench.system.store import Store

    monkeypatch.setitem(released.PUBLISHED, TWOROOM, released.ActionStatistics((0.0, 0.0), (1.0, 1.0), "a test"))
    store = Store(tmp_path / "cache")
    folder = checkpoint_folder(release, TWOROOM, store)
    assert folder.is_relative_to(tmp_path / "cache") and load_card(folder)["env"] == TWOROOM
    assert checkpoint_folder(release, TWOROOM, store) == folder
    assert checkpoint_folder(folder, "", store) == folder


# The way back.


def test_an_export_is_the_release_that_was_imported(lewm_bench, imported, release, tensors, tmp_path) -> None:
    status, out, err = lewm_bench("export", "lewm-weights", imported, "--out", "back")
    assert (status, out) == (0, "back\n") and "--action-mean 0,0 --action-std 0.5,0.5" in err
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["config.json", "weights.pt"]
    back = torch.load(tmp_path / "back" / "weights.pt", weights_only=True)
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert stripped(json.loads((tmp_path / "back" / "config.json").read_text())) == stripped(sizes(10, SMALL))


def stripped(config: Any) -> Any:
    """Without the keys that are for the released code alone."""
    if not isinstance(config, dict):
        return config
    return {key: stripped(value) for key, value in config.items() if not key.startswith("_")}


def test_what_the_released_code_cannot_build_is_not_exported(lewm_bench, imported, tmp_path) -> None:
    card = load_card(imported)

    def given(**changes: Any) -> Path:
        folder = tmp_path / "given"
        folder.mkdir(exist_ok=True)
        (folder / "card.json").write_text(json.dumps(card | changes))
        return folder

    small = {**card["config"], "encoder": "stem-vit", "width": 64}
    for changes, says in (
        ({"agent": "gcbc"}, ["holds 'gcbc', not lewm", "builds lewm and pldm"]),
        ({"agent": "pldm:x"}, ["holds 'pldm:x', not lewm", "`lewm-bench export pldm-weights`"]),
        ({"config": small}, ["lewm.encoder 'stem-vit'", "builds 'vit-tiny'", "--profile paper"]),
        ({"config": None}, ["does not say config"]),
        ({"image_size": "28"}, ["does not say"]),
        ({}, ["no weights at"]),
    ):
        refused(lewm_bench("export", "lewm-weights", given(**changes), "--out", "back"), says, tmp_path / "back")


@torch.no_grad()
def test_an_imported_model_predicts(imported) -> None:
    """The statistics of its projectors are those of the release, not of the batch."""
    model = loaded(imported).eval()
    frames = torch.randint(0, 256, (2, 4, 3, SMALL, SMALL), dtype=torch.uint8)
    clip = Clip(frames, torch.randn(2, 3, 10))
    z, prediction = model.teacher_forced(clip)
    assert z.shape == (2, 4, 192) and prediction.isfinite().all()
    torch.testing.assert_close(model.encode(frames[:1]), z[:1], rtol=1e-4, atol=1e-5)
