"""Convert, prove and publish the released models on the Hugging Face Hub, one repository each.

    python scripts/publish_all.py ORG [NAME…] [--private] [--unproven] [--state FOLDER]

Without names all cards are taken. A model is pushed once it holds against Paddle's own export (`--unproven`: where no
export can be had as well). What was done is in FOLDER/published.json after every model, so that a run that was cut off
goes on where it was: a model whose files and settings are those that were pushed is left as it is. What no source has
is named; the exit status is 0 where every model is published. The token is HF_TOKEN's, or that of `hf auth login`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paddle2torch import convert, verify
from paddle2torch.atomic import land_file
from paddle2torch.cache import zoo_dir
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.model_zoo.cards import list_cards
from paddle2torch.model_zoo.config import CONFIG_NAME
from paddle2torch.model_zoo.errors import Paddle2TorchError, VerificationError
from paddle2torch.model_zoo.strict_json import from_json, read_json, to_json
from paddle2torch.parity.report import as_data
from paddle2torch.zoo.folder import WEIGHTS_NAME
from paddle2torch.zoo.hub import push


@dataclass(frozen=True)
class Entry:
    """What is known of one model: the digest of what was pushed and its commit, or why it was not."""

    digest: str = ""
    commit: str = ""
    problem: str = ""


@dataclass
class Publisher:
    """Publishes models one by one, and remembers in `folder` what is done."""

    org: str
    folder: Path
    private: bool = False
    unproven: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._record.is_file():
            known = read_json(self._record, "record of what is published")
            self.entries = {name: from_json(Entry, entry, f"{self._record}: {name}") for name, entry in known.items()}

    @property
    def _record(self) -> Path:
        return self.folder / "published.json"

    def publish(self, name: str) -> Entry:
        """Publish one model, where it is not yet; what came of it is on disk when this returns."""
        try:
            entry = self._publish(name)
        except Paddle2TorchError as error:
            entry = Entry(problem=str(error).splitlines()[0])
        self.entries[name] = entry
        with land_file(self._record) as temporary:
            text = json.dumps({key: to_json(value) for key, value in sorted(self.entries.items())}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
        return entry

    def _publish(self, name: str) -> Entry:
        folder = zoo_dir() / name
        if not (folder / CONFIG_NAME).is_file():
            folder = convert(name).folder
        digest = digest_of(folder)
        before = self.entries.get(name)
        if before is not None and before.commit and before.digest == digest:
            return before
        figures = self._prove(name, folder, digest)
        pushed = push(folder, f"{self.org}/{name}", private=self.private, verification=figures)
        return Entry(digest, pushed.commit)

    def _prove(self, name: str, folder: Path, digest: str) -> Path | None:
        """The file with the figures of `verify`, which are of these very weights; they are kept for the next run."""
        path = self.folder / f"{name}.{digest[:16]}.json"
        if path.is_file():
            return path
        try:
            result = verify(folder)
        except VerificationError:
            if self.unproven:
                return None
            raise
        if not result.holds:
            raise VerificationError(f"{name} does not hold against {result.reference}: it is not published")
        with land_file(path) as temporary:
            temporary.write_text(json.dumps([as_data(result)]) + "\n", encoding="utf-8")
        return path


def digest_of(folder: Path) -> str:
    """The sha256 of a model's weights and settings together."""
    digest = hashlib.sha256()
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        digest.update(bytes.fromhex(sha256_of(folder / name)))
    return digest.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("org")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--private", action="store_true", help="make the repositories private")
    parser.add_argument("--unproven", action="store_true", help="also where no export can be had to compare with")
    parser.add_argument("--state", type=Path, default=Path("published"), metavar="FOLDER")
    given = parser.parse_args(arguments)
    publisher = Publisher(given.org, given.state, given.private, given.unproven)
    names = given.names or [card.name for card in list_cards()]
    problems = 0
    for name in names:
        before = publisher.entries.get(name)
        entry = publisher.publish(name)
        if entry.problem:
            problems += 1
            print(f"{name}: not published: {entry.problem}", file=sys.stderr, flush=True)
        else:
            done = "is published already" if entry == before else "published"
            print(f"{name}: {done}, {given.org}/{name} at {entry.commit}", flush=True)
    print(f"{len(names) - problems} of {len(names)} are published")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
