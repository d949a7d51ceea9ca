"""Whole pages: find text, turn it, read it, write it down."""
