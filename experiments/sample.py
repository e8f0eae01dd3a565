"""Draw with a trained run.

    python experiments/sample.py run=runs/<name> task=edit prompt="make it a woman" image=in.png out=out.png
    python experiments/sample.py run=runs/<name> task=inpaint prompt="noto, crab" image=in.png mask=mask.png out=out.png

mask: white where the picture shall be drawn anew. seed=0 steps=20 image_guidance=1.5 text_guidance=3 are optional.
"""

import sys
from pathlib import Path
from typing import Any

from run import guarded

from mtdiff.config import refuse

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
)
MAX_PIXELS = 64_000_000  # checked before a picture is decoded


def options(arguments: list[str], allowed: tuple[str, ...], required: tuple[str, ...]) -> dict[str, str]:
    """key=value arguments, each known and given once."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument}: expected key=value with one of {', '.join(allowed)}")
        if key not in allowed:
            raise refuse("option", key, allowed)
        given[key] = value
    for key in required:
        if key not in given:
            raise ValueError(f"{key}: has to be given, as {key}=...")
    return given


def number(given: dict[str, str], key: str, kind: type, default: Any) -> Any:
    if key not in given:
        return default
    try:
        return kind(given[key])
    except ValueError:
        raise ValueError(f"{key}={given[key]}: expected a {'whole ' if kind is int else ''}number") from None


def picture(given: dict[str, str], key: str) -> Any:
    """A picture file as PIL, or None where none is named."""
    from PIL import Image

    if key not in given:
        return None
    try:
        opened = Image.open(given[key])
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{key}={given[key]}: no readable picture ({error})") from None
    if opened.width * opened.height > MAX_PIXELS:
        raise ValueError(f"{key}={given[key]}: {opened.width} x {opened.height} pixels, expected at most {MAX_PIXELS}")
    return opened.convert("RGBA")


def main(arguments: list[str]) -> None:
    given = options(arguments, OPTIONS, ("run", "task", "out"))
    seed, steps = number(given, "seed", int, 0), number(given, "steps", int, None)
    scales = [number(given, f"{name}_guidance", float, None) for name in ("image", "text")]
    image, mask = picture(given, "image"), picture(given, "mask")
    if not Path(given["run"]).is_dir():
        raise ValueError(f"run={given['run']}: no such folder")
    from mtdiff.runs import load_run
    from mtdiff.sampling import Guidance

    model = load_run(given["run"], given.get("device", "cpu"))
    if steps is not None:
        model.module.sampling_steps = steps
    own = model.module.guidance.get(given["task"], Guidance())
    guidance = Guidance(
        *(new if new is not None else old for new, old in zip(scales, (own.image, own.text), strict=True))
    )
    (drawn,) = model(given["task"], given.get("prompt", ""), image, mask, seed=seed, guidance=guidance)
    drawn.save(given["out"])
    print(given["out"])


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    else:
        guarded(lambda: main(sys.argv[1:]))
