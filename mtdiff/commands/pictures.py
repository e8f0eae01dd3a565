"""Requests for pictures on the command line, checked before anything is loaded. No torch here."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.commands.arguments import (
    list_folders,
    list_numbers,
    parse_options,
    read_mapping,
    read_number,
    read_packages,
    split_options,
)
from mtdiff.config.schema import construct, refuse
from mtdiff.config.settings import Sampling
from mtdiff.errors import reason, shown
from mtdiff.files.pictures import load_picture
from mtdiff.runs.adapter import About, choose_sampling, read_about

REFERENCE = "reference."

if TYPE_CHECKING:
    from PIL import Image

    from mtdiff.runs.model import Answer, Model


FASTER = ("inherit", "switch", "budget")


def read_sampling(given: Mapping[str, str]) -> dict[str, Any]:
    """What a request says of its steps, over the run's own sampling."""
    steps = read_number(given, "steps", int, low=1)
    if steps is not None and steps > 1000:
        raise ValueError(f"steps={steps}: expected 1 to 1000")
    sampling: dict[str, Any] = {key: read_mapping(given, key) for key in ("inherit", "switch") if key in given}
    sampling |= {} if steps is None else {"steps": steps}
    return sampling | ({"budget": read_number(given, "budget", float)} if "budget" in given else {})


def read_run(given: Mapping[str, str]) -> tuple[About, dict[str, Any]]:
    """What the run of a command says of itself, or the sum of those of `adapter=[...]`, and what `load_run` takes."""
    options: dict[str, Any] = {key: given.get(key) for key in ("base", "encoder")}
    options["packages"] = read_packages(given)
    if "adapter" in given:
        from mtdiff.runs.sums import join_runs  # imports torch, which one run does not need

        folders, weights = list_folders(given, "adapter"), list_numbers(given, "weights")
        about = join_runs([read_about(Path(f), option="adapter", **options) for f in folders], weights)
        options |= {"folder": folders, "weights": weights}
    else:
        if "weights" in given:
            raise ValueError(f"weights={shown(given['weights'])}: expected none beside run=, but adapter=[...]")
        about = read_about(Path(given["run"]), **options)
        options |= {"folder": given["run"]}
    if given["task"] not in about.tasks:
        raise refuse("task", given["task"], about.tasks)
    return about, options


def parse_request(arguments: Sequence[str], allowed: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """A request's own options; and beside `adapter=`, which brings no configuration of its own, overrides of one."""
    given, overrides = split_options(arguments, allowed)
    if "adapter" not in given:
        return parse_options(arguments, allowed, ("run", "task", "out")), []
    if "run" in given:
        raise ValueError(f"run={shown(given['run'])}: expected none beside adapter=, which draws without a run")
    if is_sum(given):
        return parse_options(arguments, allowed, ("adapter", "task", "out")), []
    if "weights" in given:
        raise ValueError(f"weights={shown(given['weights'])}: expected runs that add up, as adapter=[runs/a,runs/b]")
    own = [argument for argument in arguments if argument not in overrides]
    return parse_options(own, allowed, ("adapter", "task", "out")), overrides


def is_sum(given: Mapping[str, str]) -> bool:
    """Whether `adapter=` names runs that add up, in brackets, and no adapter folder of others."""
    return given.get("adapter", "").startswith("[")


def split_references(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Files of `reference.<name>=<file>` by name, and all other arguments."""
    files: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key.startswith(REFERENCE):
            if key.removeprefix(REFERENCE) in files:
                raise ValueError(f"{shown(argument)}: {key} is given twice")
            files[key.removeprefix(REFERENCE)] = value
    return files, [a for a in arguments if not (a.startswith(REFERENCE) and "=" in a)]


def open_model(
    given: Mapping[str, str], overrides: Sequence[str], sampling: Mapping[str, Any] | None = None
) -> "tuple[Mapping[str, Any], Callable[[], Model]]":
    """The node of the task that a request names, and what loads the model that draws it.

    sampling: options over those of the run, or of the configuration.
    """
    if "adapter" in given and not is_sum(given):
        return open_adapter(given, overrides, sampling or {})
    about, options = read_run(given)
    choose_sampling(about, sampling or {})

    def load() -> "Model":
        from mtdiff.runs.load import load_run

        return load_run(device=given.get("device", "cpu"), sampling=sampling, **options)

    return about.content["task"][given["task"]], load


def open_adapter(
    given: Mapping[str, str], overrides: Sequence[str], sampling: Mapping[str, Any]
) -> "tuple[Mapping[str, Any], Callable[[], Model]]":
    """As `open_model`, of an adapter folder of others; tasks and sampling are those of a run's configuration."""
    from mtdiff.commands.compose import read_configuration  # imports Hydra, which a run does not need

    if not Path(given["adapter"]).is_dir():
        raise ValueError(f"adapter={shown(given['adapter'])}: no such folder")
    plain, _ = read_configuration(overrides)
    settings = Sampling(**{**plain["sampling"], **sampling})
    if settings.switch is not None:
        raise ValueError("sampling.switch: expected null with adapter=, which comes without a run")
    if given["task"] not in plain["task"]:
        raise refuse("task", given["task"], plain["task"])
    node, backbone = plain["task"][given["task"]], dict(plain["backbone"])
    if base := given.get("base"):
        sized = any(override.startswith("backbone.size=") for override in overrides)
        backbone |= {"weights": base, "revision": None} | ({} if sized else read_size(Path(base)))

    def load() -> "Model":
        from mtdiff.runs.checks import check_levels
        from mtdiff.runs.load import check_device
        from mtdiff.runs.peft_load import load_peft

        check_device(device := given.get("device", "cpu"))
        task, folder = construct(node), Path(given["adapter"])
        check_levels(backbone, settings.inherit)
        return load_peft(construct(backbone).to(device), folder, name=given["task"], task=task, sampling=settings)

    return node, load


def read_size(base: Path) -> dict[str, int]:
    """The side in pixels that a base in a folder was made for, as its option; nothing for a base elsewhere."""
    try:
        unet, vae = (json.loads((base / part / "config.json").read_text()) for part in ("unet", "vae"))
        return {"size": int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # its own reader says what is wrong


def check_request(
    node: Mapping[str, Any],
    given: Mapping[str, str],
    told: Mapping[str, str],
    references: Mapping[str, str] | None = None,
) -> "tuple[Image.Image | None, Image.Image | None, dict[str, Image.Image]]":
    """The image and the mask of a request, or None where none is named, and its references. The task of `node` is asked
    what it takes.

    told: what the request says beside prompt, image and mask. references: files by name.
    """
    image, mask = (load_picture(key, given[key]) if key in given else None for key in ("image", "mask"))
    from mtdiff.tasks.takes import Takes, check_prompt, probe_request

    prompt, task, named = given.get("prompt", ""), construct(node), references or {}
    check_prompt(prompt)
    pictures = {"image": image is not None, "mask": mask is not None}
    Takes.of(task).check(given["task"], prompt=prompt, **pictures, references=named)
    task.read_request(probe_request(prompt, **pictures), told)
    return image, mask, {name: load_picture(REFERENCE + name, file) for name, file in named.items()}


def write_answer(answer: "Answer", out: Path) -> list[str]:
    """Write the picture, and what is drawn beside it: `out.masked.png` beside `out.png`. Returns what is to be said."""
    beside = {out.with_name(f"{out.stem}.{name}{out.suffix}"): picture for name, picture in answer.others.items()}
    files = {out: answer.picture, **beside}
    for path, picture in files.items():
        write_picture(picture, path)
    return [*map(str, files), *(f"{name}: {word}" for name, word in answer.said.items())]


def write_picture(picture: "Image.Image", path: Path) -> None:
    try:
        picture.save(path)
    except OSError as error:
        raise ValueError(f"out={shown(path)}: cannot be written ({reason(error)})") from None
