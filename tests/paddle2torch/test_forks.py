"""Networks in processes that were forked, or started anew, after they were loaded and had run."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from small_models import saved, small_config

SCRIPT = textwrap.dedent(
    """
    import multiprocessing, sys
    import torch
    from paddle2torch import load_pretrained

    x = torch.linspace(-1, 1, 6 * 3 * 48 * 320).reshape(6, 3, 48, 320)

    def run(network):
        with torch.inference_mode():
            return network(x).argmax(-1).tolist(), torch.get_num_threads()

    if __name__ == "__main__":
        torch.set_num_threads(2)
        network = load_pretrained(sys.argv[1], fused=True)
        here = run(network)
        with multiprocessing.get_context(sys.argv[2]).Pool(1) as pool:
            there = pool.map_async(run, [network]).get(timeout=60)[0]
        assert here[0] == there[0]
        print(here[1], there[1])
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("method", "threads"), [("fork", "2 1"), ("spawn", None)])
def test_a_child_process_reads_as_its_parent(tmp_path: Path, method: str, threads: str | None) -> None:
    saved(tmp_path / "own", small_config(nrtr=False))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "own", method], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert threads in (None, done.stdout.strip())
