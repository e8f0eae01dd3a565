"""Keep the adapter of a finished run inside the package, in half precision: `load_run(name)` then needs no run folder.

python experiments/ship.py run=runs/<name> name=mtu-nano
"""

import json

from mtdiff.commands.command import run_command

LARGEST = 5 * 2**20  # bytes of all that ships


def main(arguments: list[str]) -> None:
    from pathlib import Path

    from mtdiff.commands.arguments import parse_options
    from mtdiff.files.writing import write_atomically
    from mtdiff.runs.adapter import ADAPTERS, identity, read_about

    given = parse_options(arguments, ("run", "name"), ("run", "name"))
    about = read_about(Path(given["run"]))
    if not given["name"].replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"name={given['name']}: expected letters, digits, - and _")
    from safetensors.torch import load_file, save_file

    state = {k: v.half() for k, v in load_file(about.weights).items()}
    size = sum(v.nbytes for v in state.values())
    if size > LARGEST:
        raise ValueError(f"run={given['run']}: {size / 2**20:.1f} MiB in half precision, expected at most 5")
    folder = ADAPTERS / given["name"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "adapter.safetensors", metadata={"about": identity(about.content)})
    write_atomically(folder / "adapter.json", json.dumps(about.content, indent=1) + "\n")
    print(f"{folder}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    run_command(main, __doc__)
