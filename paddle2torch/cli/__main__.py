"""`python -m paddle2torch.cli` is the command line."""

from paddle2torch.cli import main

main(prog_name="paddle2torch")
