"""The one file that knows what Lightning keeps to itself: the counts of its training loop within a checkpoint.

Lightning saves at the end of a batch, before the validation and the rows of that batch; it has no public way to save
after them. We save when the next batch starts and set the counts back by that batch, in the dictionary that Lightning
has made for the checkpoint. No object of Lightning is touched. `tests/training/test_progress.py` fails when Lightning
counts otherwise.
"""

from typing import Any

COUNTS = ("ready", "started", "processed", "completed")
BATCHES = "epoch_loop.batch_progress"
VALIDATION = "epoch_loop.val_loop.batch_progress"
LOGGED = ("epoch_loop.state_dict", "_batches_that_stepped")  # the step of rows that are logged without one


def rewind_batch_start(loop: dict[str, Any]) -> None:
    """Turn the state of the fit loop at a batch's start into that at the end of the batch before it, in place.

    Lightning counts a validation of that step once more when it goes on; nothing depends on how many there were, so
    they are not kept.
    """
    loop[VALIDATION]["total"] |= dict.fromkeys(COUNTS, 0)
    progress = loop[BATCHES]
    if progress["total"]["ready"] == progress["total"]["completed"]:  # training has ended
        return
    for counts in (progress["total"], progress["current"]):
        counts["ready"] -= 1
        counts["completed"] -= 1
    part, name = LOGGED
    loop[part][name] -= 1
