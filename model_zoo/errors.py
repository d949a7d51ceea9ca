"""The errors a user can meet, one root: `Paddle2TorchError`.

Each message says what is wrong, in which file, and what to do. The command line prints the message alone;
any other exception is our bug and keeps its traceback.
"""


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


class VerificationError(Paddle2TorchError):
    """A verification could not be carried out (a failed one is a result, not an error)."""
