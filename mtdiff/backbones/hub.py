"""Why a model could not be read, in a few words: from a folder or from the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

EXPECTED = "expected a folder in diffusers format, a hub repository, 'random' or 'meta'"


@contextmanager
def explain_failure(weights: str | Path, revision: str | None, what: str) -> Iterator[None]:
    """One line in place of whatever goes wrong while reading `what` from `weights`."""
    try:
        yield
    except (OSError, ValueError) as error:
        where = f"backbone.weights={str(weights)!r}: {what} could not be read there"
        raise ValueError(f"{where} ({reason(error, str(weights), revision)}); {EXPECTED}") from None


def reason(error: BaseException, weights: str, revision: str | None) -> str:
    """The hub's own errors stand somewhere in the chain that transformers and diffusers raise."""
    chain = list(causes(error))
    if any(isinstance(e, GatedRepoError) for e in chain):
        return (
            f"the repository is gated: accept its terms at https://huggingface.co/{weights} and log in, `hf auth login`"
        )
    if any(isinstance(e, RevisionNotFoundError) for e in chain):
        return f"backbone.revision={revision}: the repository has no such revision"
    if any(isinstance(e, RepositoryNotFoundError) for e in chain):
        return "the hub has no such repository, or it is private: `hf auth login`"
    if any(isinstance(e, OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError) for e in chain):
        return "it is not in the cache, and the hub cannot be reached: no network, or HF_HUB_OFFLINE is set"
    return " ".join(str(error).split()) or type(error).__name__


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
