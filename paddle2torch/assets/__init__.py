"""Files that come with the package: test images, a golden, the template of the report."""

from pathlib import Path

ASSETS = Path(__file__).parent
