"""Paddle files in, PyTorch state dicts out, and back. Reads bytes; never imports paddle."""
