"""Lists the licences of the installed packages of constraints.txt, and fails if one is not allowed: `make audit`.

A licence is what the metadata of a package say: the SPDX expression, else the classifiers, else the free text. Of an OR
one part has to be allowed, of an AND, or of both together, all parts.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ALLOWED = {
    "0BSD": "0BSD",
    "Apache-2.0": "Apache",
    "BSD": r"BSD|(New|3-Clause|2-Clause) BSD",
    "CC0-1.0": "CC0",
    "CNRI-Python": "CNRI-Python",
    "HPND": "HPND|MIT-CMU",
    "ISC": "ISC",
    "MIT": "MIT|Permission is hereby granted, free of charge",
    "MPL-2.0": r"MPL-2\.0|Mozilla Public License 2\.0",
    "PSF-2.0": "PSF|Python Software Foundation",
    "Unlicense": "Unlicense|Public Domain",
    "Zlib": "Zlib",
}
"""Allowed licences, and the pattern with which the text of each begins."""

READ_BY_HAND = {"namex": "Apache-2.0"}
"""Licences of packages without metadata about it, from the licence file of the package."""


def licence_of(package: Distribution) -> str:
    """Returns the licence of a package as its metadata state it; empty if they do not."""
    metadata = package.metadata
    classifiers = [c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License :: ")]
    named = [c for c in classifiers if c not in ("OSI Approved", "DFSG approved")]
    text = (metadata.get("License") or "").strip().split("\n")[0][:60]
    return metadata.get("License-Expression") or " AND ".join(named) or text or READ_BY_HAND.get(metadata["Name"], "")


def is_allowed(licence: str) -> bool:
    """Returns whether a licence, or an expression of licences, is allowed."""
    parts = re.split(" (?:AND|OR) ", re.sub(r"[()]", " ", licence))
    is_choice = " OR " in licence and " AND " not in licence
    return (any if is_choice else all)(map(_is_one_allowed, parts))


def _is_one_allowed(licence: str) -> bool:
    return any(re.match(rf"\s*({pattern})\b", licence, re.IGNORECASE) for pattern in ALLOWED.values())


def main() -> int:
    """Prints a line for each package, and returns the exit status: 1 if a licence is not allowed."""
    names = [
        line.split("==")[0] for line in Path("constraints.txt").read_text(encoding="utf-8").split() if "==" in line
    ]
    refused: list[str] = []
    absent = 0
    for name in names:
        try:
            package = distribution(name)
        except PackageNotFoundError:
            absent += 1
            continue
        licence = licence_of(package)
        allowed = is_allowed(licence)
        print(f"{name:<44} {package.version:<18} {licence or 'not stated'}{'' if allowed else '   NOT ALLOWED'}")
        if not allowed:
            refused.append(name)
    print(
        f"\n{len(names) - absent} packages, {len(refused)} with a licence that is not allowed, {absent} not installed"
    )
    if refused:
        print(
            f"{', '.join(refused)}: replace the package, or read its licence and add it to deploy/check_licences.py "
            f"(allowed are {', '.join(ALLOWED)})"
        )
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
