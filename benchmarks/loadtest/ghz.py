"""Completes a configuration, runs ghz with it, and reads the JSON report."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / "configs"

_STEPS = 5
_TIMEOUT_S = 300


class GhzError(Exception):
    """The program ghz is missing or failed. The message says what to do."""


@dataclass(frozen=True)
class Run:
    """Values that complete a configuration.

    Attributes:
        host: address of the service.
        folder: folder of the run: requests in ``data``, configurations and reports of ghz.
        seconds: duration of the run, in seconds.
        step_s: duration of each step of a stepped load, in seconds.
        rate: calls a second to offer; of a stepped load, in the last step. None: a closed loop.
        warm_up_s: seconds at an even rate that are left out of the report, with their failures.
    """

    host: str
    folder: Path
    seconds: float
    step_s: float
    rate: float | None
    warm_up_s: float = 0.0


def read_config(name: str) -> dict[str, Any]:
    """Returns the configuration with this name, as parsed JSON."""
    return json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


def complete(config: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Returns the configuration with the values of a run filled in, as ``ghz --config`` takes it."""
    complete = {**config, "host": run.host, "data-file": str((run.folder / "data" / config["data-file"]).resolve())}
    complete["proto"] = str(ROOT / config["proto"])
    complete["import-paths"] = [str(ROOT / path) for path in config["import-paths"]]
    if config.get("load-schedule") == "step":
        top = run.rate or 100.0
        complete |= {
            "load-start": max(1, round(top / _STEPS)),
            "load-step": max(1, round(top / _STEPS)),
            "load-end": max(2, round(top)),
            "load-step-duration": f"{run.step_s:g}s",
            "duration": f"{_STEPS * run.step_s:g}s",
        }
    else:
        complete["duration"] = f"{run.seconds:g}s"
        if run.rate is not None:
            complete["rps"] = max(1, round(run.rate))
            if run.warm_up_s:
                complete["skipFirst"] = round(run.rate * run.warm_up_s)
    return complete


def execute(program: Path, name: str, run: Run) -> dict[str, Any]:
    """Runs a configuration and returns the report.

    Raises:
        GhzError: ghz failed or wrote no report.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    config, report = run.folder / f"{name}.config.json", run.folder / f"{name}.json"
    report.unlink(missing_ok=True)
    config.write_text(json.dumps(complete(read_config(name), run), indent=2) + "\n", encoding="utf-8")
    command = [str(program), "--config", str(config), "--format", "json", "--output", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode or not report.exists():
        raise GhzError(f"{' '.join(command)} failed with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return json.loads(report.read_text(encoding="utf-8"))
