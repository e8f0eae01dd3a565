"""Draw with a trained run.

    python experiments/sample.py run=runs/<name> task=edit prompt="make it a woman" image=in.png out=out.png
    python experiments/sample.py run=runs/<name> task=inpaint prompt="noto, crab" image=in.png mask=mask.png out=out.png

    python experiments/sample.py adapter=[runs/<a>,runs/<b>] weights=[1,0.5] task=reference prompt="noto" \\
        reference.object=a.png reference.style=b.png out=out.png

    python experiments/sample.py adapter=<folder> base=<folder> task=edit prompt="..." image=in.png out=out.png

    python experiments/sample.py run=runs/<name> task=joint_label label=face-smiling out=out.png

mask: white where the picture shall be drawn anew. seed=0 steps=20 image_guidance=1.5 text_guidance=3 are optional.
inherit="{level: block, every: 3}" and switch="{light: runs/<other>, until: 500}" draw faster: docs/faster.md.
budget=0.5: of a run of method=budgeted, with so much of the base's FLOPs: docs/budgets.md.
known: picture, masked or none, what joint_masked is given. label: of joint_label: docs/joint.md.
reference.<name>=<file>: reference pictures; adapter=[...]: runs that add up, by their weights (docs/references.md).
packages=yours: whose classes the run may name, beside ours. base=<folder>: the base model, where it is one of yours.
encoder=<folder>: the picture encoder of references, likewise.
adapter: of peft or diffusers, by others or by export.py, on base= or backbone=; sampling.sampler=ddim and other options
are those of run.py.
"""

from typing import Any

from mtdiff.commands.command import run_command

MODALITIES = ("known", "label")
OPTIONS = ("run", "task", "prompt", "image", "mask", "out", "seed", "steps", "image_guidance", "text_guidance")
WHERE = ("adapter", "weights", "device", "packages", "base", "encoder")


def main(arguments: list[str]) -> None:
    from dataclasses import replace

    from mtdiff.commands import pictures
    from mtdiff.commands.arguments import read_number
    from mtdiff.files.writing import ENDINGS, check_writable

    references, arguments = pictures.split_references(arguments)
    given, overrides = pictures.parse_request(arguments, (*OPTIONS, *MODALITIES, *pictures.FASTER, *WHERE))
    seed, sampling = read_number(given, "seed", int, 0, 0), pictures.read_sampling(given)
    scales = {name: read_number(given, f"{name}_guidance", float) for name in ("image", "text")}
    out = check_writable("out", given["out"], ENDINGS)
    node, load = pictures.open_model(given, overrides, sampling)
    told = {key: given[key] for key in MODALITIES if key in given}
    image, mask, shown = pictures.check_request(node, given, told, references)
    from mtdiff.model.sampling import Guidance

    model = load()
    own = model.painter.guidance.get(given["task"], Guidance())
    guidance = replace(own, **{name: scale for name, scale in scales.items() if scale is not None})
    options: dict[str, Any] = {"seed": seed, "guidance": guidance, "given": told, "reference": shown or None}
    (answer,) = model.answer(given["task"], given.get("prompt", ""), image, mask, **options)
    print("\n".join(pictures.write_answer(answer, out)))


if __name__ == "__main__":
    run_command(main, __doc__)
