"""Whole pages: find text, turn it, read it, write it down."""

from typing import TYPE_CHECKING

from paddle2torch.moved import moved

if not TYPE_CHECKING:  # or every misspelt name would be taken for one of them
    __getattr__ = moved(__name__, "OCR")
