"""Draw with a trained run.

    python experiments/sample.py run=runs/<name> task=edit prompt="make it a woman" image=in.png out=out.png
    python experiments/sample.py run=runs/<name> task=inpaint prompt="noto, crab" image=in.png mask=mask.png out=out.png

mask: white where the picture shall be drawn anew. seed=0 steps=20 image_guidance=1.5 text_guidance=3 are optional.
packages=yours: whose classes the run may name, beside ours. base=<folder>: the base model, where it is one of yours.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from composing import guarded

from mtdiff.config.schema import PACKAGES, refuse
from mtdiff.files import ENDINGS, check_writable, reason, shown
from mtdiff.pictures import load_picture
from mtdiff.runs.adapter import About, read_about

OPTIONS = (
    "run",
    "task",
    "prompt",
    "image",
    "mask",
    "out",
    "seed",
    "steps",
    "image_guidance",
    "text_guidance",
    "device",
    "packages",
    "base",
)


def options(arguments: list[str], allowed: tuple[str, ...], required: tuple[str, ...]) -> dict[str, str]:
    """key=value arguments, each known and given once."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{shown(argument)}: expected key=value with one of {', '.join(allowed)}")
        if key not in allowed:
            raise refuse("option", key, allowed)
        if key in given:
            raise ValueError(f"{key}={shown(value)}: is given twice, first as {shown(given[key])}")
        given[key] = value
    for key in required:
        if not given.get(key):
            raise ValueError(f"{key}: has to be given, as {key}=...")
    return given


def number(given: dict[str, str], key: str, kind: type, default: Any, low: float = -math.inf) -> Any:
    """An option as a finite number of at least `low`."""
    if key not in given:
        return default
    least = "" if low == -math.inf else f" of at least {low}"
    try:
        value = kind(given[key])
    except ValueError:
        value = math.nan
    if not low <= value < math.inf or value == -math.inf:
        raise ValueError(f"{key}={shown(given[key])}: expected a {'whole' if kind is int else 'finite'} number{least}")
    return value


def picture(given: dict[str, str], key: str) -> Any:
    """A picture file as PIL, or None where none is named."""
    return load_picture(key, given[key]) if key in given else None


def described(given: dict[str, str]) -> tuple[About, dict[str, Any]]:
    """What the run says of itself, and what `load_run` is told beside the folder."""
    named = [package for package in given.get("packages", "").split(",") if package]
    told: dict[str, Any] = {"packages": (*PACKAGES, *named), "base": given.get("base")}
    about = read_about(Path(given["run"]), **told)
    if given["task"] not in about.tasks:
        raise refuse("task", given["task"], about.tasks)
    return about, told


def main(arguments: list[str]) -> None:
    given = options(arguments, OPTIONS, ("run", "task", "out"))
    seed, steps = number(given, "seed", int, 0, 0), number(given, "steps", int, None, 1)
    scales = [number(given, f"{name}_guidance", float, None) for name in ("image", "text")]
    if steps is not None and steps > 1000:
        raise ValueError(f"steps={steps}: expected 1 to 1000")
    out = check_writable("out", given["out"], ENDINGS)
    _, told = described(given)
    image, mask = picture(given, "image"), picture(given, "mask")
    from mtdiff.model.sampling import Guidance
    from mtdiff.runs.load import load_run

    model = load_run(given["run"], given.get("device", "cpu"), **told)
    if steps is not None:
        model.painter = replace(model.painter, steps=steps)
    own = model.painter.guidance.get(given["task"], Guidance())
    guidance = Guidance(
        *(new if new is not None else old for new, old in zip(scales, (own.image, own.text), strict=True))
    )
    (drawn,) = model(given["task"], given.get("prompt", ""), image, mask, seed=seed, guidance=guidance)
    try:
        drawn.save(out)
    except OSError as error:
        raise ValueError(f"out={shown(out)}: cannot be written ({reason(error)})") from None
    print(out)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    else:
        guarded(lambda: main(sys.argv[1:]))
