r"""``report.html``: one page on a bundle that needs nothing else, neither network nor server.

Whatever comes from the data is escaped: by the template where it is text, by ``\u003c`` where it is inside a script
block, by `trainer.publishing.report.figures` where plotly would read it as markup. On top of that the page's content security
policy runs the two scripts that belong to it, known by their hashes, and loads nothing.
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
from trainer.publishing.report.figures import draw_all
from trainer.publishing.report.page_data import ReportData
from trainer.publishing.report.tables import Table

_TEMPLATES = Path(__file__).parent / "templates"
_NOTES = "<!-- notes -->"
"""Where `add_note` puts one."""
_OF_EVALUATION = frozenset({"metrics", "intervals", "differences", "comparison", "gates"})
"""Parts of ``evaluation.json`` that have tables of their own here."""


def render(data: ReportData) -> str:
    """Returns the text of the page."""
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
    """Writes the page."""
    path.write_text(render(data), encoding="utf-8", newline="\n")


def add_note(page: str, note: str) -> str:
    """Returns a page with a note on top, above those that it has."""
    return page.replace(_NOTES, f'{_NOTES}\n<p class="note" role="note">{escape(note)}</p>', 1)


def _methods(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Returns metrics by method, those of the live bundle on the same test part last."""
    methods = dict(evaluation.get("metrics") or {})
    comparison = evaluation.get("comparison") or {}
    if comparison.get("live_metrics"):
        methods[f"live bundle {comparison['live']}"] = comparison["live_metrics"]
    return methods


def _drawn_metrics(data: ReportData, methods: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the metrics of the publish gates that there are, or the first three of all."""
    names = tables.metric_names(methods.values())
    wanted = (data.recipe.get("gates") or {}).get("metrics") or ()
    return [name for name in names if name in wanted][:3] or names[:3]


def _tables(data: ReportData, methods: Mapping[str, Mapping[str, float]]) -> dict[str, list[Table]]:
    """Returns the tables of each section, by its name; no key for a section that has none."""
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
            if name not in _OF_EVALUATION and isinstance(value, Mapping) and value:
                sections["methods"].append(tables.tabulate_groups(name.replace("_", " ").capitalize(), value))
    if data.gates:
        sections["gates"] = [tables.tabulate_gates(data.gates)]
    if data.search is not None:
        sections["search"] = [tables.tabulate_search(data.search)]
    if data.popularity is not None:
        sections["popularity"] = [tables.tabulate_popularity(data.popularity)]
    return sections


def _script_json(text: str) -> Markup:
    """Returns JSON that can stand in a script block: without ``<``, no tag or comment begins in it."""
    return Markup(text.replace("<", "\\u003c"))


def _content_hash(script: str) -> str:
    """Returns a script's name in a content security policy (W3C CSP 3, hash-source)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
