"""Copy complete runs into a small folder that can be committed: each result, and one picture per task beside it.

python experiments/collect.py runs='runs/*/result.json' study=main        into experiments/results/main/<run>.json
                                                                          and <run>-<task>.webp
out: another folder than experiments/results. pictures=false: the results alone. seeds=0: pictures of these seeds alone.
What is there already under the same name is replaced.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mtdiff.config.schema import given
from mtdiff.results.record import Found, Result, find

DEFAULTS = {"runs": "runs/*/result.json", "study": "", "out": "", "pictures": "true", "seeds": ""}
RESULTS = Path(__file__).resolve().parent / "results"
QUALITY = 50  # of WebP: a tenth of the PNG's bytes for the study's pictures of seed 0


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """key=value arguments over the defaults."""
    options = given(arguments, DEFAULTS)
    if not options["study"] or Path(options["study"]).name != options["study"]:
        raise ValueError(f"study={options['study']}: expected the name of a folder")
    if options["pictures"] not in ("true", "false"):
        raise ValueError(f"pictures={options['pictures']}: expected true or false")
    if not options["seeds"].replace(",", "").isdecimal() and options["seeds"]:
        raise ValueError(f"seeds={options['seeds']}: expected numbers with commas between")
    return options


def name_of(path: Path) -> str:
    """The run folder's name, or the file's own."""
    return path.parent.name if path.name == "result.json" else path.stem


def chosen(found: Sequence[Found]) -> dict[str, Found]:
    """Complete runs by name. What is not complete is said."""
    kept: dict[str, Found] = {}
    for one in found:
        if one.result is None or one.result.status != "complete":
            reason = one.reason if one.result is None else one.result.status
            print(f"collect.py: left out: {one.path}: {reason}", file=sys.stderr)
        elif name_of(one.path) in kept:
            raise ValueError(
                f"{one.path}: another run is called {name_of(one.path)} too: {kept[name_of(one.path)].path}"
            )
        else:
            kept[name_of(one.path)] = one
    return kept


def collect(options: Mapping[str, str]) -> Iterator[Path]:
    found = find(options["runs"])
    if not found:
        raise ValueError(f"runs={options['runs']}: no such file")
    folder = Path(options["out"] or RESULTS) / options["study"]
    seeds = {int(seed) for seed in options["seeds"].split(",") if seed}
    for name, one in chosen(found).items():
        assert one.result is not None
        placeless(one.result).save(folder / f"{name}.json")
        yield folder / f"{name}.json"
        if options["pictures"] == "true" and (not seeds or one.result.seed in seeds):
            yield from pictures(one, folder / name)


def placeless(result: Result) -> Result:
    """Without the folder of a machine: `run_dir` keeps its last part."""
    place = result.config.get("run_dir")
    return result if place is None else replace(result, config={**result.config, "run_dir": Path(place).name})


def pictures(one: Found, target: Path) -> Iterator[Path]:
    """The sample grids of a run folder as WebP: `<target>-<task>.webp`."""
    from PIL import Image

    assert one.result is not None
    for task in one.result.tasks:
        source, path = one.path.parent / "samples" / f"{task}.png", target.with_name(f"{target.name}-{task}.webp")
        if source.exists():
            with Image.open(source) as image:
                image.convert("RGB").save(path, quality=QUALITY, method=6)
            yield path


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print((__doc__ or "").strip())
        return 0
    try:
        written = list(collect(parse(arguments)))
    except (ValueError, OSError) as error:
        print(f"collect.py: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} files, {sum(path.stat().st_size for path in written) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
