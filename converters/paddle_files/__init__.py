"""Readers and writers of Paddle's files, from bytes, without Paddle."""
