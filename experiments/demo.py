"""Draw in the browser, with one run or two side by side from the same seed.

    python experiments/demo.py                                   the shipped adapter
    python experiments/demo.py run=runs/first run=runs/second    two runs
    python experiments/demo.py adapter=[runs/a,runs/b] weights=[1,0.5]    a sum of runs, alone or beside run=

Needs pip install -e '.[demo]'. The page is served to this machine alone; nothing is shared, counted or fetched.
port=7860: where; a free one if not given. device=cpu, packages=yours, base=<folder> and encoder=<folder> are those of
sample.py. The page has what the runs take: reference pictures, what is known, a label.
"""

from mtdiff.commands.command import run_command

OPTIONS = ("adapter", "weights", "port", "device", "packages", "base", "encoder")


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import parse_options, read_number, read_packages
    from mtdiff.commands.demo import check_gradio, read_runs, serve

    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("run=")]
    given = parse_options([a for a in arguments if not a.startswith("run=")], OPTIONS, ())
    port = read_number(given, "port", int, None, 1)
    if port is not None and port > 65535:
        raise ValueError(f"port={port}: expected 1 to 65535")
    runs, weights = read_runs(named, given)
    check_gradio()
    from mtdiff.commands.studio import SHIPPED, Studio

    options = {"packages": read_packages(given), "base": given.get("base"), "encoder": given.get("encoder")}
    serve(Studio(runs or [SHIPPED], weights, device=given.get("device", "cpu"), **options), port)


if __name__ == "__main__":
    run_command(main, __doc__, prefix="demo.py")
