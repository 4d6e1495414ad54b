"""Progress of long work, on a terminal and in a log."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console
from rich.progress import Progress

from trainer.cli.rich_progress import RichProgress, format_duration, format_task

MEASURED = {
    "epoch": 3,
    "loss": 1.25,
    "val_ndcg@10": 0.5,
    "val_recall@100": 0.75,
    "examples_per_second": 12345.6,
    "input_wait_share": 0.021,
}


class Output(io.StringIO):
    """Output stream on which a test can wait for a text."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def write(self, text: str) -> int:
        with self._changed:
            count = super().write(text)
            self._changed.notify_all()
            return count

    def wait_for(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.getvalue(), timeout=10), self.getvalue()


def log(every_s: float = 30.0) -> tuple[RichProgress, Output]:
    output = Output()
    return RichProgress(Console(file=output, soft_wrap=True), every_s), output


def test_a_log_gets_lines_while_texts_are_counted() -> None:
    progress, output = log(every_s=0.01)
    with progress.counting("embedding texts", 40_000) as advance:
        advance(12_000)
        output.wait_for("embedding texts: 12,000 of 40,000 (30 %)")


def test_a_log_gets_lines_within_a_step_of_unknown_length() -> None:
    progress, output = log(every_s=0.01)
    with progress.working("publishing") as tell:
        tell("growing [100] trees")
        output.wait_for("publishing: growing [100] trees, 0 s so far\n")


def test_a_log_gets_lines_within_an_epoch() -> None:
    progress, output = log(every_s=0.01)
    with progress.training("training") as training:
        output.wait_for("training: preparing\n")
        training.begin(epochs=4, steps=50, done=1)
        training.step(2.5)
        output.wait_for("training: 51 of 200 (26 %), loss 2.500")
        training.step(3.5)
        output.wait_for("training: 52 of 200 (26 %), loss 3.000")  # the mean of the epoch so far
        training.epoch(MEASURED)
        training.step(1.5)
        output.wait_for("training: 53 of 200 (26 %), loss 1.500")


def test_a_log_gets_one_line_an_epoch_and_no_bars() -> None:
    progress, output = log()
    with progress.training("training") as training:
        training.begin(epochs=4, steps=50, done=2)
        training.epoch(MEASURED)
    assert output.getvalue() == (
        "resumed after epoch 2 of 4\n"
        "epoch   3/4  loss 1.2500  valid: ndcg@10 0.5000  recall@100 0.7500  12,346 examples/s, 2% waiting for input\n"
    )


@pytest.mark.parametrize(
    ("total", "shown"), [(1999, False), (2000, True)], ids=("done in a few seconds", "worth a bar")
)
def test_a_terminal_gets_a_bar_for_large_totals(total: int, shown: bool) -> None:
    output = io.StringIO()
    progress = RichProgress(Console(file=output, force_terminal=True, width=120))
    with progress.counting("embedding texts", total) as advance:
        advance(total)
    assert ("embedding texts" in output.getvalue()) == shown


def test_a_note_is_printed_as_it_is() -> None:
    progress, output = log()
    progress.note("note: runs/[bold]1 holds a checkpoint")
    assert output.getvalue() == "note: runs/[bold]1 holds a checkpoint\n"


def test_the_time_left_is_that_of_the_speed_so_far() -> None:
    now = [0.0]
    bars = Progress(get_time=lambda: now[0])
    task = bars.add_task("embedding texts", total=40_000, figure="loss 0.5")
    for done in (2_000, 10_000):
        bars.update(task, advance=done)
        now[0] += 25.0
    # 10,000 in 25 s, 28,000 are left: 70 s.
    assert format_task(bars.tasks[0]) == "embedding texts: 12,000 of 40,000 (30 %), loss 0.5, 70 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_durations_have_the_unit_that_fits(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
