r"""``report.html``: one self-contained page about a bundle, which needs neither network nor server.

Everything that comes from the data is escaped: text by the template, JSON in a script block by ``\u003c``, and labels
that plotly would read as markup by `trainer.publishing.report.charts`. In addition, the content security policy of the
page lets only its own two scripts run, known by their hashes, and lets nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from trainer.publishing.report import tables
from trainer.publishing.report.charts import draw_all
from trainer.publishing.report.page_data import ReportData
from trainer.publishing.report.tables import Table

_TEMPLATES = Path(__file__).parent / "templates"
_NOTES = "<!-- notes -->"
"""The marker in the page below which `add_note` adds notes."""
_KNOWN_KEYS = frozenset({"metrics", "intervals", "differences", "comparison", "gates"})
"""Keys of ``evaluation.json`` that the page shows in its own tables; further keys get a generic table."""


def render(data: ReportData) -> str:
    """Returns the HTML of the page."""
    methods = _methods(data.evaluation)
    figures = draw_all(data, methods, _drawn_metrics(data, methods))
    plotly, draw = get_plotlyjs(), (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        data=data,
        tables=_tables(data, methods),
        figures={name: _script_json(figure.to_json()) for name, figure in figures.items()},
        recipe=json.dumps(data.recipe, indent=2, ensure_ascii=False),
        plotly=Markup(plotly),
        draw=Markup(draw),
        script_hashes=[_content_hash(plotly), _content_hash(draw)],
        notes_marker=Markup(_NOTES),
    )


def write(path: Path, data: ReportData) -> None:
    """Writes the page to a file."""
    path.write_text(render(data), encoding="utf-8", newline="\n")


def add_note(page: str, note: str) -> str:
    """Returns a page with another note at the top, above its earlier notes."""
    return page.replace(_NOTES, f'{_NOTES}\n<p class="note" role="note">{escape(note)}</p>', 1)


def _methods(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Returns the metrics by method; the last method is the live bundle, evaluated on the same test part."""
    methods = dict(evaluation.get("metrics") or {})
    comparison = evaluation.get("comparison") or {}
    if comparison.get("live_metrics"):
        methods[f"live bundle {comparison['live']}"] = comparison["live_metrics"]
    return methods


def _drawn_metrics(data: ReportData, methods: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the names of up to three metrics to draw: those of the publish gates, or else the first three."""
    names = tables.metric_names(methods.values())
    wanted = (data.recipe.get("gates") or {}).get("metrics") or ()
    return [name for name in names if name in wanted][:3] or names[:3]


def _tables(data: ReportData, methods: Mapping[str, Mapping[str, float]]) -> dict[str, list[Table]]:
    """Returns the tables by section; sections without a table are left out."""
    evaluation = data.evaluation
    sections: dict[str, list[Table]] = {}
    if data.epochs:
        sections["epochs"] = [tables.tabulate_epochs(data.epochs)]
    if methods:
        sections["methods"] = [tables.tabulate_methods(methods, evaluation.get("intervals") or {})]
        if evaluation.get("differences"):
            model = next(iter(methods))
            sections["methods"].append(tables.tabulate_differences(evaluation["differences"], model))
        for name, value in evaluation.items():
            if name not in _KNOWN_KEYS and isinstance(value, Mapping) and value:
                sections["methods"].append(tables.tabulate_groups(name.replace("_", " ").capitalize(), value))
    if data.gates:
        sections["gates"] = [tables.tabulate_gates(data.gates)]
    if data.search is not None:
        sections["search"] = [tables.tabulate_search(data.search)]
    if data.popularity is not None:
        sections["popularity"] = [tables.tabulate_popularity(data.popularity)]
    return sections


def _script_json(text: str) -> Markup:
    """Returns JSON that is safe inside a script block: without ``<``, no tag or comment can begin in it."""
    return Markup(text.replace("<", "\\u003c"))


def _content_hash(script: str) -> str:
    """Returns the hash that names a script in a content security policy (W3C CSP 3, hash-source)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
