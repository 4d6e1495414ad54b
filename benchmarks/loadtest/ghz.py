"""Runs ghz: completes a configuration for a run, and returns the JSON report."""

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
    """The program ghz is missing or failed; the message says what to do."""


@dataclass(frozen=True)
class Run:
    """Settings of one run of ghz, which complete a configuration.

    Attributes:
        host: Address of the service.
        folder: Folder of the run: requests in ``data``, completed configurations, and reports.
        seconds: Length of the run in seconds; stepped loads use `step_s`.
        step_s: Length of each step of a stepped load, in seconds.
        rate: Calls per second to send; for a stepped load, those of the last step. None: a closed loop.
        warm_up_s: Length of the beginning of a steady load whose calls are left out of the report, in seconds.
    """

    host: str
    folder: Path
    seconds: float
    step_s: float
    rate: float | None
    warm_up_s: float = 0.0


def read_config(name: str) -> dict[str, Any]:
    """Returns the content of the configuration file ``NAME.json``."""
    return json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


def complete(config: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Returns a configuration with the values of a run filled in, so that ``ghz --config`` can repeat the run.

    Args:
        config: content of a configuration file.
        run: settings of the run.
    """
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
    """Runs ghz with a configuration, and returns its JSON report. Both are also kept as files in the run's folder.

    Args:
        program: path of ghz.
        name: name of the configuration.
        run: settings of the run.

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
