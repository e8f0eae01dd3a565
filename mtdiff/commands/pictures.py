"""Requests for pictures on the command line, checked before anything is loaded. No torch here."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.commands.arguments import read_packages
from mtdiff.config.schema import construct, refuse
from mtdiff.files import reason, shown
from mtdiff.pictures import load_picture
from mtdiff.runs.adapter import About, read_about

if TYPE_CHECKING:
    from PIL import Image


def read_run(given: Mapping[str, str]) -> tuple[About, dict[str, Any]]:
    """What the run of a command says of itself, and what `load_run` takes beside the folder."""
    options: dict[str, Any] = {"packages": read_packages(given), "base": given.get("base")}
    about = read_about(Path(given["run"]), **options)
    if given["task"] not in about.tasks:
        raise refuse("task", given["task"], about.tasks)
    return about, options


def check_request(about: About, given: Mapping[str, str]) -> "tuple[Image.Image | None, Image.Image | None]":
    """The image and the mask of a request, or None where none is named. The task is asked what it takes."""
    image, mask = (load_picture(key, given[key]) if key in given else None for key in ("image", "mask"))
    from mtdiff.tasks.takes import Takes, check_prompt

    check_prompt(given.get("prompt", ""))
    takes = Takes.of(construct(about.content["task"][given["task"]]))
    takes.check(given["task"], prompt=given.get("prompt", ""), image=image is not None, mask=mask is not None)
    return image, mask


def write_picture(picture: "Image.Image", path: Path) -> None:
    try:
        picture.save(path)
    except OSError as error:
        raise ValueError(f"out={shown(path)}: cannot be written ({reason(error)})") from None
