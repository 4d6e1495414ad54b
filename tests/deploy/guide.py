"""The commands and files of docs/deploying.md, to be followed word for word."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.deploy.manifests import ROOT

PAGE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The text below a heading, down to the next heading."""
    (found,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
    return found


def block(language: str, heading: str) -> str:
    """The only block of a language in a section."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section(heading), flags=re.DOTALL | re.MULTILINE)
    return found


def commands(heading: str) -> list[str]:
    """The commands of a section, without their prompts."""
    blocks = re.findall(r"^```console\n(.*?)^```", section(heading), flags=re.DOTALL | re.MULTILINE)
    return [line.removeprefix("$ ") for text in blocks for line in text.splitlines()]


def make_secrets(folder: Path) -> None:
    """Makes certificates and tokens in a folder, by the commands of the guide that need no cluster."""
    lines = [line for line in commands("3. Certificates and tokens") if not line.startswith("kubectl")]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)], cwd=folder, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
