"""The way out: a model in another format, checked beside PyTorch before it lands."""
