"""The local Sphinx extensions: docstrings as text, generated pages."""

import html
import importlib
import inspect
import re
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest

import docstrings
import semid_pages
from semid_lib.runs import METRICS

ROOT = Path(__file__).resolve().parents[2]

SAMPLE = """Fit the model; q(v | h) = softmax(s * cos(h_t, E_k[v])), see `a|b` and `x_`s.

It ends in `_` or in E_ and needs \\\\hat{x}:
* one bullet with
  two lines;
* another, 2**3.

    indented = block_ | of text

Args:
    alpha, beta_: [N, L] int64, 0 to K_l - 1,
        on `device`.
    *rest: others; gamma, delta: and (so) on
Returns:
    `codes` [N, L].

Raises:
    ValueError: D differs. KeyError: not an
    entry of its own.
Cost: O(N L |V|) time,
and memory.

After it.

Example:
    >>> f(x_, 2 * 3)
    |6|
"""


def _parse(text):
    """Parsed by docutils itself, every warning an error."""
    settings = {"report_level": 2, "halt_level": 2, "warning_stream": False}
    return docutils.core.publish_doctree(text, settings_overrides=settings)


def test_the_text_of_a_docstring_survives():
    document = _parse(docstrings.to_rst(SAMPLE))
    shown = " ".join(document.astext().split())
    for part in (
        "q(v | h) = softmax(s * cos(h_t, E_k[v])), see a|b and x_s.",
        "It ends in _ or in E_ and needs \\\\hat{x}:",
        "one bullet with two lines;",
        "another, 2**3.",
        "alpha, beta_: [N, L] int64, 0 to K_l - 1, on device.",
        "*rest: others; gamma, delta: and (so) on",
        "codes [N, L].",
        "ValueError: D differs. KeyError: not an entry of its own.",
        "Cost: O(N L |V|) time, and memory.",
        "After it.",
        ">>> f(x_, 2 * 3) |6|",
    ):
        assert part in shown
    items = [item.astext() for item in document.findall(docutils.nodes.list_item)]
    assert len(items) == 2 + 2 + 1
    blocks = [block.astext() for block in document.findall(docutils.nodes.literal_block)]
    assert blocks == ["indented = block_ | of text"]
    assert len(list(document.findall(docutils.nodes.doctest_block))) == 1


def _public():
    for module, names in semid_pages.public_names().items():
        loaded = importlib.import_module(module)
        yield module, loaded
        for name in names:
            value = getattr(loaded, name)
            yield f"{module}.{name}", value
            for member, function in vars(value).items() if inspect.isclass(value) else ():
                if not member.startswith("_") and not member.endswith("_request"):
                    yield f"{module}.{name}.{member}", function


def test_every_docstring_of_the_library_parses():
    count = 0
    for name, value in _public():
        text = getattr(value, "__doc__", None)
        if text and (inspect.ismodule(value) or callable(value) or isinstance(value, property)):
            try:
                _parse(docstrings.to_rst(inspect.cleandoc(text)))
            except Exception as error:
                pytest.fail(f"{name}: {error}")
            count += 1
    assert count > 100


def test_the_reference_lists_what_the_design_promises():
    text = semid_pages.api_text(set())
    for name in (
        "data.load_dataset data.Interactions data.leave_one_out encoders.FAMAE quantizers.GAOQ "
        "quantizers.HierarchicalKMeans quantizers.BalancedKMeans codes.SemanticIds "
        "recommenders.T5Recommender recommenders.SASRec recommenders.Popularity "
        "recommenders.MarkovChain recommenders.ItemKNN evaluation.recall_at_k evaluation.ndcg_at_k "
        "evaluation.mrr diagnostics.gini diagnostics.code_overlap diagnostics.within_code_cosine "
        "diagnostics.code_terms reports.setup training.train errors.DataError"
    ).split():
        assert f":: semid_lib.{name}\n" in text, name
    listed = {line.split(".")[-1] for line in text.split("\n") if ".. auto" in line}
    for path in (ROOT / "semid_lib").glob("*.py"):
        if path.stem not in ("__init__", "cli"):
            for name in re.findall(r"^(?:def|class) ([a-zA-Z]\w+)", path.read_text(), re.MULTILINE):
                assert name in listed, f"{path.name}: {name}"


def test_the_status_page_lists_25_tables_and_24_figures():
    lines = semid_pages.status_text(set()).split("\n")
    rows = [
        line.split("|")[1].split() for line in lines if line.startswith(("| Table", "| Figure"))
    ]
    assert sum(kind == "Table" for kind, _ in rows) == 25
    assert sum(kind == "Figure" for kind, _ in rows) == 24
    assert all(state in semid_pages.STATES for state in semid_pages.progress.status()["state"])


def test_what_a_record_holds_is_no_mark_up_in_the_page(monkeypatch):
    """Rendered, every character is there and nothing else is: no tag, no cell, no emphasis."""
    from markdown_it.renderer import RendererHTML
    from myst_parser.config.main import MdParserConfig
    from myst_parser.parsers.mdit import create_md_parser

    bad = "<img src=x onerror=alert(1)> a|b *c* _d_ `e` [f](g) {h}`i` $j$ &lt; \\ ~k~ \x1b[0m"
    parse = create_md_parser(MdParserConfig(enable_extensions={"dollarmath"}), RendererHTML)
    page = parse.render(f"| head | next |\n| --- | --- |\n| {semid_pages.shown(bad)} | 1 |\n")
    assert page.count("<td>") == 2 and not re.search(r"<(img|em|code|a|strong|span)\b", page)
    cell = re.search(r"<td>(.*?)</td>", page, re.DOTALL)[1]
    assert html.unescape(cell) == bad.replace("\x1b", " ")
    assert semid_pages.shown("sasrec-star atm1.5 電影") == "sasrec-star atm1.5 電影"


def test_the_status_page_links_only_pages_that_exist(monkeypatch):
    table = semid_pages.progress.status()
    table.loc[0, "chapter"] = "12_resid"
    monkeypatch.setattr(semid_pages.progress, "status", lambda: table)
    assert "{doc}`12 </notebooks/12_resid>`" in semid_pages.status_text({"notebooks/12_resid"})
    assert "{doc}" not in semid_pages.status_text(set())


def test_the_claims_page_has_a_row_for_each_claim_and_counts_them():
    text, claims = semid_pages.claims_text(set()), semid_pages.verdicts.claims()
    rows = re.findall(r"^\* - \*\*(.+?)\*\*", text, re.MULTILINE)
    assert rows == claims["id"].tolist()
    counts = re.findall(r"(?<=\| )\d+(?= \|)", text.split("##")[0])
    assert sum(map(int, counts)) == len(claims)
    assert semid_pages.evidence("fig-gaoq-eight") == "{numref}`fig-gaoq-eight`"
    assert semid_pages.evidence("ch-gaoq: A title") == "{ref}`ch-gaoq`, “A title”"
    assert semid_pages.evidence("q2--default--toys--paper--s0") == "`q2--default--toys--paper--s0`"


def record(system, dataset, value, variant="default"):
    """What `shortfalls` reads of a record whose metrics are all `value`."""
    metrics = dict.fromkeys(METRICS, value)
    name = {"system": system, "variant": variant, "dataset": dataset}
    return {**name, "metrics": {"test": metrics, "validation": metrics}, "cut": []}


def test_shortfalls_show_every_variant_and_what_was_tried():
    good, bad = record("sasrec", "beauty", 0.07), record("hgn", "instruments", 0.02)
    best = record("hgn", "instruments", 0.06, "bpr")
    (row,) = semid_pages.shortfalls([good, bad, best]).to_dict("records")
    assert (row["paper"], row["system"], row["dataset"]) == ("acerec", "HGN", "instruments")
    assert [run[:2] for run in row["runs"]] == [("bpr", 1), ("default", 1)]
    assert row["runs"][1][2:] == pytest.approx((0.02 / 0.0867, 0.02 / 0.0559))
    less = {**bad, "dataset": "toys", "cut": ["data: other", "settings: recommender epochs 2"]}
    (row,) = semid_pages.shortfalls([less]).to_dict("records")
    assert row["smaller"] == row["tried"] == "recommender epochs 2"
    assert (
        semid_pages.shortfalls([good]).empty and len(semid_pages.shortfalls([good], below=9)) == 1
    )


def test_the_book_says_what_was_tried_for_every_recorded_run_below_the_printed_value():
    found = semid_pages.shortfalls()
    assert list(found.loc[found["tried"] == "", "system"]) == []
