"""Models by name: where they come from, where they are kept, what is known about them."""

from typing import TYPE_CHECKING

from paddle2torch.moved import moved

if not TYPE_CHECKING:  # or every misspelt name would be taken for one of them
    __getattr__ = moved(__name__, "list_models")
