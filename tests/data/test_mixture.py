"""Which example comes when: shares, epochs, purity, ranks, resumption, and the fixed test lists."""

import dataclasses
import pickle
from collections import Counter
from itertools import chain, islice

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Cycle, Mixture, RunningBatchSampler, Stream, cycle_counts, one_thread
from mtdiff.data.module import MixtureModule
from mtdiff.data.source import Source
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import Batch, Example, Record

SIZES = {"picture": 7, "caption": 5, "edit": 6, "removal": 3}
FOUR = (TextToImage(), Edit(), SuperResolution(scale=2), Inpaint())


class Noise(Source):
    """Pictures of 16 px that differ with every draw; their keys tell which record they are."""

    def __init__(self, sizes=None):
        self.sizes = SIZES if sizes is None else sizes

    def size(self, need, split):
        return self.sizes[need]

    def record(self, need, split, index, rng):
        image, edited = torch.from_numpy(rng.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8))
        key = f"{split}/{need}/{index}"
        if need in ("edit", "removal"):
            return Record(image, "before", key, need, edited, f"do {index}", "after")
        return Record(image, f"noise {index}", key)


def content(example):
    """All of an example but its task's number, to compare."""
    fields = {f.name: getattr(example, f.name) for f in dataclasses.fields(Example) if f.name != "task"}
    return {k: v.numpy().tobytes() if isinstance(v, torch.Tensor) else v for k, v in fields.items()}


def batch_content(batch):
    return {k: v.numpy().tobytes() if isinstance(v, torch.Tensor) else v for k, v in vars(batch).items()}


def mixture(tasks=FOUR, weights=None, **options):
    return Mixture(Noise(), tasks, weights or [1.0] * len(tasks), **options)


def module(**options):
    options = {"batch_size": 4, "workers": 0, "test_per_task": 4, "validation_per_task": 2, **options}
    return MixtureModule(options.pop("source", Noise()), options.pop("tasks", {t.name: t for t in FOUR}), **options)


# Shares


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ([1, 1, 1, 1], [1, 1, 1, 1]),
        ([5.0], [1]),
        ([1, 2, 1], [1, 2, 1]),
        ([0.4, 0.3, 0.2, 0.1], [4, 3, 2, 1]),
        ([0.3, 0.7], [3, 7]),
        ([0.37, 0.63], [7, 12]),
        ([1e-3, 2e-3], [1, 2]),
    ],
)
def test_weights_become_the_shortest_cycle(weights, counts):
    assert cycle_counts({str(k): w for k, w in enumerate(weights)}) == counts


@pytest.mark.parametrize("weights", [[0.0951, 0.3417, 0.5632], [1.0, 3.1416, 2.7183, 1.4142]])
def test_shares_are_kept_to_one_percent(weights):
    counts = cycle_counts({str(k): w for k, w in enumerate(weights)})
    assert np.allclose(np.array(counts) / sum(counts), np.array(weights) / sum(weights), rtol=0.01)


def test_shares_too_small_for_a_cycle_are_refused():
    with pytest.raises(ValueError, match=r"weights={'a': 1, 'b': 1000}: expected shares within 1 %"):
        cycle_counts({"a": 1, "b": 1000})


def test_a_cycle_counts_each_kind_without_gaps():
    cycle = Cycle({"a": 1, "b": 3, "c": 2}, ("key",))
    drawn = [cycle.at(i) for i in range(600)]
    for kind, count in enumerate((1, 3, 2)):
        assert [n for k, n in drawn if k == kind] == list(range(100 * count))
    orders = {tuple(k for k, _ in drawn[i : i + 6]) for i in range(0, 600, 6)}
    assert all(Counter(order) == {0: 1, 1: 3, 2: 2} for order in orders)
    assert len(orders) > 30  # 60 are possible


def test_every_cycle_of_the_mixture_keeps_the_weights():
    examples = [mixture(weights=[4, 2, 1, 1])[i] for i in range(80)]
    for i in range(0, 80, 8):
        assert Counter(e.task for e in examples[i : i + 8]) == {0: 4, 1: 2, 2: 1, 3: 1}


# Epochs


@pytest.mark.parametrize("task", FOUR, ids=lambda t: t.name)
def test_an_epoch_holds_every_record_once(task):
    stream = Stream(Noise(), task, "train", 0)
    keys = [stream.example(n, 0).key for n in range(300)]
    for need in task.needs:
        seen, size = [k for k in keys if k.split("/")[1] == need], SIZES[need]
        epochs = [seen[i : i + size] for i in range(0, len(seen) - size, size)]
        assert len(epochs) > 10
        assert all(set(epoch) == {f"train/{need}/{i}" for i in range(size)} for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > min(5, size)  # in ever new orders


def test_a_record_is_drawn_anew_in_every_epoch():
    stream = Stream(Noise(), Edit(), "train", 0)
    pictures = {stream.example(n, 0).target.numpy().tobytes() for n in range(10 * SIZES["edit"])}
    assert len(pictures) == 10 * SIZES["edit"]


def test_needs_of_one_task_keep_their_share():
    stream = Stream(Noise(), Inpaint(removal=0.25), "train", 0)
    needs = [stream.draw(n).need for n in range(400)]
    assert all(needs[i : i + 4].count("removal") == 1 for i in range(0, 400, 4))


# Purity


def test_an_example_is_a_function_of_its_number():
    numbers = list(range(60))
    forth = {i: content(e) for whole in [mixture()] for i in numbers for e in [whole[i]]}
    back = {i: content(e) for whole in [mixture()] for i in reversed(numbers) for e in [whole[i]]}
    assert forth == back
    assert content(mixture()[59]) == forth[59]
    assert len({pickle.dumps(c) for c in forth.values()}) == 60


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "validation"}])
def test_seed_and_split_change_every_example(other):
    one, two = mixture(), mixture(**other)
    pictures = [{whole[i].target.numpy().tobytes() for i in range(20)} for whole in (one, two)]
    assert not pictures[0] & pictures[1]


@pytest.mark.parametrize("task", FOUR, ids=lambda t: t.name)
def test_examples_of_a_task_do_not_depend_on_the_others(task):
    def stream(tasks, weights, count=12):
        whole, own = mixture(tasks, weights), tasks.index(task)
        found = (content(e) for i in range(1000) for e in [whole[i]] if e.task == own)
        return list(islice(found, count))

    alone = stream([task], [1])
    assert stream(list(FOUR), [1, 2, 3, 4]) == alone
    assert stream(list(reversed(FOUR)), [1, 1, 1, 1]) == alone


def test_pickling_changes_nothing():
    whole = mixture()
    whole[3]
    again = pickle.loads(pickle.dumps(whole))
    assert [content(again[i]) for i in range(8)] == [content(whole[i]) for i in range(8)]


def test_batches_do_not_depend_on_the_workers():
    def batches(workers):
        return [batch_content(b) for b in islice(module(workers=workers).train_dataloader(), 7)]

    alone = batches(0)
    assert batches(1) == alone
    assert batches(2) == alone


def test_spawned_workers_give_the_same_batches():
    tasks = [TextToImage(), SuperResolution()]
    whole, sampler = Mixture(EmojiSource(size=32), tasks, [1.0, 1.0]), RunningBatchSampler(4)
    loader = DataLoader(
        whole,
        batch_sampler=sampler,
        collate_fn=Batch.collate,
        num_workers=1,
        worker_init_fn=one_thread,
        multiprocessing_context="spawn",
    )
    expected = [Batch.collate([whole[i] for i in numbers]) for numbers in islice(sampler, 3)]
    assert [batch_content(b) for b in islice(loader, 3)] == [batch_content(b) for b in expected]


# Ranks


@pytest.mark.parametrize("start", [0, 13])
def test_ranks_share_the_batch_of_one_process(start):
    whole = list(islice(RunningBatchSampler(12, start), 5))
    ranks = [list(islice(RunningBatchSampler(4, start, rank, 3), 5)) for rank in range(3)]
    assert [list(chain(*step)) for step in zip(*ranks, strict=True)] == whole
    assert whole[0][0] == start
    assert list(chain(*whole)) == list(range(start, start + 60))


def test_the_sampler_starts_where_the_batches_ended():
    whole = list(islice(RunningBatchSampler(4), 9))
    assert list(islice(RunningBatchSampler(4, start=4 * 5), 4)) == whole[5:]
    now = [8]
    sampler = RunningBatchSampler(4, lambda: now[0])
    assert next(iter(sampler)) == whole[2]
    now[0] = 16
    assert next(iter(sampler)) == whole[4]


# Fixed lists


def test_fixed_lists_hold_each_task_in_turn():
    examples = Mixture.first_examples(Noise(), FOUR, "test", 3)
    assert [e.task for e in (examples[i] for i in range(len(examples)))] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert all(examples[i].key.startswith("test/") for i in range(12))
    with pytest.raises(IndexError):
        examples[12]


def test_fixed_lists_do_not_depend_on_the_run():
    four = Mixture.first_examples(Noise(), FOUR, "test", 4)
    for place, task in enumerate(FOUR):
        alone = Mixture.first_examples(Noise(), [task], "test", 4)
        longer = Mixture.first_examples(Noise(), [task], "test", 5)
        expected = [content(four[4 * place + i]) for i in range(4)]
        assert [content(alone[i]) for i in range(4)] == expected
        assert [content(longer[i]) for i in range(4)] == expected


def test_fixed_lists_repeat_no_record():
    examples = Mixture.first_examples(Noise(), FOUR, "test", 100)
    keys = [(e.task, e.key) for e in (examples[i] for i in range(len(examples)))]
    assert len(set(keys)) == len(keys)
    counts = Counter(task for task, _ in keys)
    assert (counts[0], counts[1], counts[2]) == (SIZES["caption"], SIZES["edit"], SIZES["picture"])
    assert 6 <= counts[3] <= 7  # 3 removals, then as many pictures, give or take the order


# The module


def test_evaluation_is_the_same_for_every_seed_and_weight():
    one, two = module(seed=1), module(seed=2, weights={"edit": 3})
    for loaders in ((one.val_dataloader(), two.val_dataloader()), (one.test_dataloader(), two.test_dataloader())):
        first, second = ([batch_content(b) for b in loader] for loader in loaders)
        assert first == second
    assert content(one.train[0]) != content(two.train[0])
    assert torch.cat([b.task for b in one.test_dataloader()]).tolist() == [k for k in range(4) for _ in range(4)]
    assert torch.cat([b.task for b in one.val_dataloader()]).tolist() == [k for k in range(4) for _ in range(2)]


def test_weights_not_named_are_one():
    examples = module(weights={"edit": 3}).train
    assert Counter(examples[i].task for i in range(60)) == {0: 10, 1: 30, 2: 10, 3: 10}


class Recorder(L.LightningModule):
    """Learns nothing; notes which examples each batch held."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, number):
        self.seen.append(batch_content(batch))
        return self.weight * batch.target.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, data, checkpoint=None, **options):
    recorder, saved = Recorder(), folder / "last.ckpt"
    options = {"max_epochs": -1, "accumulate_grad_batches": 2, **options}
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(recorder, data, ckpt_path=checkpoint)
    trainer.save_checkpoint(saved)
    return recorder.seen, saved


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumes_at_the_next_example(tmp_path, workers):
    whole, _ = fit(tmp_path, module(), max_steps=5)
    first, saved = fit(tmp_path, module(workers=workers), max_steps=3)
    rest, saved = fit(tmp_path, module(workers=workers), saved, max_steps=4)
    last, _ = fit(tmp_path, module(batch_size=8), saved, max_steps=5, accumulate_grad_batches=1)  # same joint batch
    assert len(whole) == 10
    assert first + rest == whole[:8]
    assert last[0]["key"] == whole[8]["key"] + whole[9]["key"]


@pytest.mark.filterwarnings("ignore")
def test_short_epochs_go_on_where_the_last_ended(tmp_path):
    whole, _ = fit(tmp_path, module(), max_steps=4)
    parts, _ = fit(tmp_path, module(), max_steps=4, limit_train_batches=2)
    assert parts == whole


def test_position_is_where_training_starts():
    data = module()
    data.position = 20
    assert batch_content(next(iter(data.train_dataloader()))) == batch_content(
        Batch.collate([data.train[i] for i in range(20, 24)])
    )
    assert data.state_dict() == {"position": 20, "step": 0}


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"paint": 1.0}}, r"weights\['paint'\]=1.0: unknown task; expected one of text_to_image, edit"),
        ({"weights": {"edit": 0.0}}, r"weights\['edit'\]=0.0: expected a finite number above 0"),
        ({"weights": {"edit": -1}}, r"weights\['edit'\]=-1"),
        ({"weights": {"edit": float("nan")}}, r"weights\['edit'\]=nan"),
        ({"weights": {"edit": 1e4}}, r"weights={.*'edit': 10000.0.*}: expected shares within 1 %"),
        ({"tasks": {}}, "tasks=.*: expected at least one task"),
        ({"tasks": {"draw": Edit()}}, "tasks: key 'draw' holds a task named 'edit'"),
        (
            {"source": Noise({**SIZES, "removal": 0})},
            "'inpaint' needs 'removal' records, of which the data has none",
        ),
        ({"batch_size": 0}, "batch_size=0: expected a whole number from 1"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"workers": -1}, "workers=-1: expected a whole number from 0"),
        ({"test_per_task": 0}, "test_per_task=0"),
        ({"validation_per_task": 0}, "validation_per_task=0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        module(**options)
    assert "\n" not in str(caught.value)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="split='dev': expected one of train, validation, test"):
        mixture(split="dev")
    with pytest.raises(ValueError, match="names that differ"):
        mixture([Edit(), Edit()])
    with pytest.raises(ValueError, match=r"weights=\[1, 1\]: expected one for each of edit"):
        mixture([Edit()], [1, 1])
    with pytest.raises(ValueError, match="rank=2: expected a whole number from 0 to 1"):
        RunningBatchSampler(4, rank=2, world=2)
    with pytest.raises(ValueError, match="batch_size=0"):
        RunningBatchSampler(0)
    with pytest.raises(IndexError, match="i=-1"):
        mixture()[-1]


def test_a_task_that_needs_no_removals_takes_a_source_without():
    source = Noise({**SIZES, "removal": 0})
    assert len(Mixture.first_examples(source, [Inpaint(removal=0.0)], "test", 3)) == 3


# The shipped data


def test_four_tasks_over_emoji():
    tasks = {task.name: task for task in FOUR}
    data = module(source=EmojiSource(size=32), tasks=tasks, batch_size=40, workers=2)
    batch = next(iter(data.train_dataloader()))
    assert Counter(batch.task.tolist()) == {0: 10, 1: 10, 2: 10, 3: 10}
    assert batch.target.shape == batch.source.shape == (40, 3, 32, 32)
    again = Batch.collate([data.train[i] for i in range(40)])
    assert batch_content(batch) == batch_content(again)
    assert [len(data.validation), len(data.test)] == [8, 16]
