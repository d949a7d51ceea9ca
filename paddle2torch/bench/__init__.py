"""Benchmarks: this library beside other engines, in processes that take turns."""
