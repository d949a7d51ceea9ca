"""The errors a user can meet, one root: `Paddle2TorchError`.

Each message says what is wrong, in which file, and what to do. The command line prints the message alone;
any other exception is our bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class Paddle2TorchError(Exception):
    """Root of all errors that are the input's or the environment's, not the library's."""


class FileFormatError(Paddle2TorchError):
    """A file is truncated, corrupt, hostile, or not of the format it claims to be."""


class ConfigError(Paddle2TorchError):
    """A setting is unknown, mistyped, or contradicts another one."""


class ConversionError(Paddle2TorchError):
    """A checkpoint and a network do not fit each other."""


class CharsetError(ConversionError):
    """A network is known, and the characters of its classes are not, or are not those that were given."""


class SourceError(Paddle2TorchError):
    """No source of a model could be reached, or what came was not what was promised."""


class NoSourceError(SourceError):
    """No source of a model has it.

    `tried` has what each answered, `by_hand` which file can be put where in the place of an answer.
    """

    def __init__(self, model: str, tried: Sequence[str], by_hand: Sequence[str]) -> None:
        self.model, self.tried, self.by_hand = model, tuple(tried), tuple(by_hand)
        super().__init__(
            f"no source of {model} answered. Tried, in this order:\n"
            + "".join(f"  - {line}\n" for line in self.tried)
            + say_by_hand(self.by_hand)
        )


def say_by_hand(ways: Sequence[str]) -> str:
    """The end of a message about models that no source has: what a user can do."""
    listed = "".join(f"  - {way}\n" for way in ways)
    return (
        f"Fetch one of these on a machine that can, put it where it says, and run this again:\n{listed}"
        f"Or name files that you have with --weights PATH (a .pdparams, the .tar, or the folder of an export). "
        f"Behind a proxy set HTTPS_PROXY; for a mirror of the Hub set HF_ENDPOINT, of PyPI PIP_INDEX_URL."
    )


class VerificationError(Paddle2TorchError):
    """A verification could not be carried out (a failed one is a result, not an error)."""
