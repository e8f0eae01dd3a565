"""Write a data set as WebDataset shards with their index, or an index beside shards that have none.

    python experiments/convert_data.py data=folder data.edit=/pictures/edits out=/shards      -> /shards/edit/...
    python experiments/convert_data.py data=published need=caption out=s3://bucket/coco shard_mib=256
    python experiments/convert_data.py index=/downloads/shards                -> /downloads/shards/index.json
    python experiments/convert_data.py index=hf://datasets/owner/name out=/indices/name

Options of run.py, and: out, a folder or URL; need, one kind of record (all where it is not given); shard_mib, 128.
Then: python experiments/run.py data=shards data.edit=/shards/edit
"""

from mtdiff.commands.command import run_command


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import read_number, split_options
    from mtdiff.commands.compose import read_configuration

    given, overrides = split_options(arguments, ("out", "need", "shard_mib", "index"))
    shard_mib = read_number(given, "shard_mib", float, 128.0)
    if not 0 < shard_mib <= 4096:
        raise ValueError(f"shard_mib={shard_mib}: expected a number above 0, at most 4096")
    if "index" in given:
        from mtdiff.data.tables.convert import write_index

        out = given.get("out", given["index"])
        print(f"{out}/index.json: {list_counts(write_index(given['index'], out))}")
        return
    if "out" not in given:
        raise ValueError("out: has to be given, as out=<folder or URL>")
    plain, _ = read_configuration(overrides)
    from typing import get_args

    from mtdiff.config.schema import construct, refuse
    from mtdiff.data.tables.convert import Samples, write_shards
    from mtdiff.types import SPLITS, Need

    source = construct(plain["data"])
    held: list[Need] = [n for n in get_args(Need) if any(source.size(n, s) for s in SPLITS)]
    if "need" in given and given["need"] not in held:
        raise refuse("need", given["need"], held)
    for need in (n for n in held if given.get("need", n) == n):
        url = f"{given['out'].rstrip('/')}/{need}"
        parts = {s: Samples(source, need, s, plain["seed"]) for s in SPLITS if source.size(need, s)}
        print(f"{url}: {list_counts(write_shards(url, parts, shard_mib))}")


def list_counts(counts: dict[str, int]) -> str:
    """Records of each split, for a person."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


if __name__ == "__main__":
    run_command(main, __doc__)
