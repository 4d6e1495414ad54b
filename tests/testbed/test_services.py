"""Running services as processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.services import PairError, Replica


def test_a_service_that_does_not_serve_in_time_shows_the_end_of_its_log(tmp_path: Path) -> None:
    replica = Replica("ann_service", tmp_path / "nothing", tmp_path / "log", {"drain-delay-s": "0"})
    (tmp_path / "nothing").mkdir()
    try:
        replica.start()
        with pytest.raises(PairError, match=r"waited 0 s for ann_service to serve; its log ends with:\n\{.*level"):
            replica.wait_until_serving(timeout_s=0.0)
    finally:
        replica.stop()
