"""The one way to the Hugging Face Hub: tried again, bounded in size and time, every failure a `SourceError`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from paddle2torch.model_zoo.errors import SourceError
from paddle2torch.zoo.downloads import check_reachable
from paddle2torch.zoo.hosts import NotAskedError
from paddle2torch.zoo.hub_limits import bounded
from paddle2torch.zoo.retry import PASSING, retry

T = TypeVar("T")

ANSWER_SECONDS = 120.0  # for what is not a file, attempts included
ANSWER_BYTES_AT_MOST = 16 << 20


def ask(call: Callable[[], T], *, seconds: float | None = None, most: int = ANSWER_BYTES_AT_MOST) -> T:
    """What `call`, a request by `huggingface_hub` that may be made again, returns.

    seconds: for all attempts (None: `ANSWER_SECONDS`). most: bytes of each answer.

    Raises `SourceError`, which says what can be done and does not name the repository.
    """
    limit = ANSWER_SECONDS if seconds is None else seconds
    with _failures():
        return bounded(lambda: retry(call, _passing), seconds=limit, most=most)


def tell(call: Callable[[], T]) -> T:
    """As `ask`, without limits: what is sent may take its time."""
    with _failures():
        return retry(call, _passing)


def check_online() -> None:
    """Raise `NotAskedError` where the Hub is not to be asked, `UnreachableError` where no connection can be made."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise NotAskedError("the Hub is not asked, as HF_HUB_OFFLINE says")
    # The library asks a host that is not there six times, for 23 s.
    check_reachable(constants.ENDPOINT)


def fetch_file(
    repo: str,
    name: str,
    revision: str | None,
    *,
    seconds: float,
    most: int,
    folder: Path | None = None,
    offline: bool = False,
) -> Path:
    """The file `name` of a repository: in `folder`, else in the library's own cache, where `offline` looks alone.

    Raises as `ask`.
    """
    from huggingface_hub import constants, hf_hub_download

    def fetch() -> Path:
        return Path(
            hf_hub_download(
                repo, name, revision=revision, local_dir=folder, local_files_only=offline, endpoint=constants.ENDPOINT
            )
        )

    return ask(fetch, seconds=seconds, most=most)


@contextlib.contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """The library's progress bars while the block runs: as the user has set them, or none."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not listed in its __all__
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    hidden = not shown and not are_progress_bars_disabled()
    if hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        if hidden:
            enable_progress_bars()


def one_line(text: str) -> str:
    """What a library says over several lines, as part of our message."""
    return " ".join(text.split())[:300]


def _passing(error: Exception) -> str | None:
    """As `retry` asks: whether the Hub has too much to do, and for how long."""
    from huggingface_hub.errors import HfHubHTTPError

    response = getattr(error, "response", None)
    if not isinstance(error, HfHubHTTPError) or response is None or response.status_code not in PASSING:
        return None
    return str(response.headers.get("Retry-After", ""))


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Failures of the library in the block as `SourceError`, with what can be done."""
    from huggingface_hub import constants, errors

    # The library has changed the HTTP client below it more than once; its module of errors has the roots of both.
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    failures: tuple[type[Exception], ...] = (*kinds, OSError, ValueError, RuntimeError)
    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceError(f"asks for its terms to be accepted first, on {constants.ENDPOINT}") from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"is not at {constants.ENDPOINT}, or it is private and HF_TOKEN (or `hf auth login`) gives no access"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError("has no such revision; it is a branch, a tag, or the whole hash of a commit") from error
    except errors.LocalEntryNotFoundError as error:
        # The cause is behind the library's "an error happened".
        raise SourceError(_reason(error.__cause__ or error)) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise SourceError(
                f"{constants.ENDPOINT} refuses ({status}): set HF_TOKEN to a token with the right to it, or "
                f"`hf auth login`"
            ) from error
        raise SourceError(_reason(error)) from error
    except failures as error:
        raise SourceError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    return one_line(str(error)) or type(error).__name__
