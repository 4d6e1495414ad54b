"""Ctrl-C before a command has begun."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.harness import ROOT


def test_ctrl_c_while_modules_are_imported_leaves_no_traceback() -> None:
    program = (
        "import runpy, sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'trainer.cli.commands': print('importing', flush=True); time.sleep(100)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "runpy.run_module('trainer', run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "")
