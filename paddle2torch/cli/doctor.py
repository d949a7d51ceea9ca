"""`doctor`: what to paste into a bug report."""

from __future__ import annotations

from dataclasses import asdict

import click

from paddle2torch.cli.options import AS_JSON
from paddle2torch.cli.output import echo, print_json


@click.command()
@click.option("--offline", is_flag=True, help="Do not ask the sources of models whether they answer.")
@AS_JSON
def doctor(offline: bool, as_json: bool) -> None:
    """Show what this machine has: versions, processor, devices, compiler, folders, sources that answer.

    What is wrong has a ! in front. Paste it into a bug report: no password and no path of yours is in it.
    """
    from paddle2torch.doctor import examine
    from paddle2torch.progress import spinner

    with spinner("asking the sources", not as_json and not offline):
        findings = examine(sources=not offline)
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            echo(group, bold=True)
        echo(f"{'!' if finding.wrong else ' '} {finding.name}: {finding.value}")
