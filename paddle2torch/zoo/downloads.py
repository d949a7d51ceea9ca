"""One file over HTTP: resumed, retried, bounded in size and time, checked.

What has come is kept beside its target in a part file until it is whole; the next call, or the next process, goes
on from there if the server still has the same file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from paddle2torch.atomic import disk_full
from paddle2torch.model_zoo.errors import Paddle2TorchError, SourceError
from paddle2torch.model_zoo.strict_json import from_json, read_json, to_json
from paddle2torch.zoo.connections import Watch, watched_session
from paddle2torch.zoo.hosts import UnreachableError
from paddle2torch.zoo.retry import ATTEMPTS, PASSING, retry

MAX_BYTES = 2 * 1024**3
CONNECT_SECONDS, READ_SECONDS = 6.0, 30.0
ANSWER_SECONDS = 60.0  # until the headers are here, each redirect for itself
LEAST_RATE, RATE_SECONDS = 1024.0, 30.0  # bytes a second, over so long
TOTAL_SECONDS = 6 * 3600.0
MAX_REDIRECTS = 10

_CHUNK = 16 * 1024
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")
_NUMBER = re.compile(r"[0-9]{1,15}")

Report = Callable[[int, int | None], None]


@dataclass(frozen=True)
class _PartState:
    """What the server said about the file of which a part is here."""

    url: str
    validator: str
    total: int | None


class _RetryError(Exception):
    """An attempt failed in a way that may pass; `asked` is the server's Retry-After."""

    def __init__(self, reason: str, asked: str = "") -> None:
        super().__init__(reason)
        self.asked = asked


def download(url: str, part: Path, report: Report | None = None) -> None:
    """Fetch `url` into the file `part`, going on from what an earlier call left there.

    The caller moves the part away and calls `discard_part`; until then a whole part is not fetched again.
    `report` is called with the bytes that are here and the bytes in all (None where the server does not say).

    Raises `UnreachableError` where no connection can be made, `SourceError` for every other failure (the part stays
    where going on makes sense), `Paddle2TorchError` for a full disk (the part is removed).
    """
    with watched_session() as (session, watch), watch.at_most(TOTAL_SECONDS, f"it took {TOTAL_SECONDS / 3600:.0f} h"):
        try:
            retry(
                lambda: _transfer(session, watch, url, part, report),
                # Who sends so little does so on purpose, or will not be done today.
                lambda error: error.asked if isinstance(error, _RetryError) and watch.ended is None else None,
            )
        except _RetryError as error:
            ended = f"{watch.ended}: the connection was ended" if watch.ended else f"{error}, {ATTEMPTS} times"
            raise SourceError(f"{ended}{_kept(part)}") from error


def _kept(part: Path) -> str:
    kept = part.stat().st_size if part.exists() else 0
    return f"; {kept:,} bytes are kept and the next run goes on from there" if kept else ""


def check_reachable(url: str) -> None:
    """Raise `UnreachableError` where no connection to the host of `url` can be made, whatever it would answer."""
    with watched_session() as (session, watch), contextlib.suppress(_RetryError):
        _open(session, watch, url, {}).close()


def discard_part(part: Path) -> None:
    """Remove a part file and what is known about it."""
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _transfer(session: requests.Session, watch: Watch, url: str, part: Path, report: Report | None) -> None:
    """One attempt; on return the part is the whole file."""
    have, state = _resumable(part, url)
    if state is not None and have == state.total:
        return
    # Compressed on the way, lengths and ranges would not be those of the file.
    headers = {"Accept-Encoding": "identity"}
    if state is not None:
        headers |= {"Range": f"bytes={have}-", "If-Range": state.validator}
    total: int | None
    with _open(session, watch, url, headers) as response:
        _check_status(response, url)
        if response.status_code == 206 and state is not None:
            total = _check_range(response, part, have, state)
        elif response.status_code == 200:
            discard_part(part)
            have, total = 0, _content_length(response)
            _remember(part, url, response, total)
        else:
            discard_part(part)
            raise _RetryError(f"an answer that was not asked for ({response.status_code})")
        _check_room(part, have, total)
        try:
            _receive(response, watch, part, have, total, report)
        except urllib3.exceptions.HTTPError as error:
            raise _RetryError(f"the connection was cut ({_short(error)})") from error


def _open(session: requests.Session, watch: Watch, url: str, headers: dict[str, str]) -> requests.Response:
    """The answer to a request, its body still to be read. Redirects are followed, their bodies are not read."""
    place = url
    for _ in range(MAX_REDIRECTS + 1):
        with watch.at_most(ANSWER_SECONDS, f"no whole answer within {ANSWER_SECONDS:.0f} s"):
            response = _ask(session, place, headers)
        _check_whole(watch)
        try:
            target = session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            place = urljoin(place, target)
        except ValueError:  # no UTF-8, or no address
            raise SourceError("redirected to what is not an address") from None
        _check_protected(url, place)
    raise SourceError(f"more than {MAX_REDIRECTS} redirects")


def _ask(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    try:
        request = session.prepare_request(requests.Request("GET", url, headers=headers))
        place = request.url or url
        settings: Any = session.merge_environment_settings(place, {}, True, None, None)
        # Not through `session.send`, which reads the body of a redirect to its end even where it is not to follow it.
        return session.get_adapter(place).send(request, timeout=(CONNECT_SECONDS, READ_SECONDS), **settings)
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise UnreachableError(_short(error)) from error
    except requests.ConnectTimeout as error:
        raise UnreachableError(f"no connection within {CONNECT_SECONDS:.0f} s") from error
    except requests.ConnectionError as error:
        cause = getattr(error.args[0], "reason", None) if error.args else None
        if isinstance(cause, urllib3.exceptions.NewConnectionError):
            raise UnreachableError(f"no connection to {urlsplit(url).hostname}: {_short(cause)}") from error
        raise _RetryError(f"the connection was cut ({_short(error)})") from error
    except requests.Timeout as error:
        raise _RetryError(f"no answer within {READ_SECONDS:.0f} s") from error
    except requests.RequestException as error:
        raise SourceError(_short(error)) from error


def _check_status(response: requests.Response, url: str) -> None:
    _check_protected(url, response.url)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceError("the server sends the file compressed although it was asked not to")
    status = response.status_code
    if status in (200, 206, 416):
        # 416: the part is longer than the file is now; the caller starts anew.
        return
    reason = f"{status} {response.reason}"
    if status in PASSING:
        raise _RetryError(reason, response.headers.get("Retry-After", ""))
    raise SourceError(reason)


def _check_whole(watch: Watch) -> None:
    # A connection that was ended looks like one that has come to its end.
    if watch.ended is not None:
        raise _RetryError(watch.ended)


def _check_protected(url: str, target: str) -> None:
    if url.lower().startswith("https:") and not target.lower().startswith("https:"):
        raise SourceError(f"redirected from https to an unprotected address: {target}")


def _check_range(response: requests.Response, part: Path, have: int, state: _PartState) -> int:
    """The total size of the file, from an answer that goes on exactly where the part ends."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is not None:
        start, end, total = (int(number) for number in found.groups())
        # A server that disregards If-Range shows by its validator that the file is another one.
        same = _validator(response) in (None, state.validator) and state.total in (None, total)
        if same and start == have and end == total - 1:
            return total
    discard_part(part)
    raise _RetryError(f"a wrong range came ({response.headers.get('Content-Range')!r}, {have} bytes are here)")


def _check_room(part: Path, have: int, total: int | None) -> None:
    if total is None:
        return
    if total > MAX_BYTES:
        raise SourceError(f"the file has {total:,} bytes; more than {MAX_BYTES:,} is not taken")
    if shutil.disk_usage(part.parent).free < total - have:
        discard_part(part)
        raise disk_full(part.parent, total)


def _receive(
    response: requests.Response, watch: Watch, part: Path, have: int, total: int | None, report: Report | None
) -> None:
    with open(part, "ab") as out, watch.at_least(LEAST_RATE, RATE_SECONDS, lambda: have):
        # Not `iter_content`, which looks for the end of a line that says a chunk's length without limit.
        while chunk := response.raw.read(_CHUNK, decode_content=False):
            have += len(chunk)
            if have > (MAX_BYTES if total is None else total):
                break
            try:
                out.write(chunk)
                out.flush()
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    discard_part(part)
                    raise disk_full(part.parent, total, have) from error
                raise
            if report is not None:
                report(have, total)
        _check_whole(watch)
        os.fsync(out.fileno())
    if total is not None and have < total:
        raise _RetryError(f"the connection was cut ({have:,} of {total:,} bytes came)")
    if have > (MAX_BYTES if total is None else total):
        discard_part(part)
        limit = f"the {total:,} bytes announced" if total is not None else f"{MAX_BYTES:,} bytes"
        raise SourceError(f"more than {limit} came")


def _resumable(part: Path, url: str) -> tuple[int, _PartState | None]:
    """Size of the part and what is known of its file, where the server can be asked for the rest."""
    try:
        state = from_json(_PartState, read_json(_state_path(part)), part.name)
        have = part.stat().st_size
    except (OSError, Paddle2TorchError):
        return 0, None
    if state.url != url or have == 0 or (state.total is not None and have > state.total):
        return 0, None
    return have, state


def _remember(part: Path, url: str, response: requests.Response, total: int | None) -> None:
    validator = _validator(response)
    if validator is not None:
        # A kill in the middle of this leaves JSON that does not parse: then the download starts anew.
        _state_path(part).write_text(json.dumps(to_json(_PartState(url, validator, total))), encoding="utf-8")


def _state_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _validator(response: requests.Response) -> str | None:
    """What If-Range takes: a strong ETag, else the date of the last change."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if _NUMBER.fullmatch(length) else None


def _short(error: BaseException) -> str:
    # urllib3 leads with the connection object (of `connections`), which says nothing to the reader.
    text = " ".join(str(error).split())
    return re.sub(r"<[^<>]* object at 0x[0-9a-f]+>:? ?|(?:HTTPS?Connection|Https?)\([^()]*\): ?", "", text)[:200]
