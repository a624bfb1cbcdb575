"""What the pages need beyond Jupyter Book: generated parts, plain docstrings, no unused loader."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import tomllib

import pandas as pd

from docstrings import to_rst
from semid_lib.environment import PACKAGE
from semid_lib.reports import printed, progress, tables, verdicts
from semid_lib.runs import is_smaller, load_records
from semid_lib.systems import system_printed_as, title

NO_BREAK = "\N{NO-BREAK SPACE}"
STATUS, CLAIMS, API = "book/status", "book/claims", "book/api"
# The reference follows the data; modules not named here come after, by name.
WAY = ("data", "encoders", "quantizers", "codes", "recommenders", "clicks", "training")
WAY += ("evaluation", "diagnostics", "systems", "runs", "reports", "networks", "compute")
NOT_LISTED = ("cli",)  # `semid --help` documents it
STATES = ("live", "recorded", "partly", "not yet", "not possible")


def shown(text: object) -> str:
    """Text of a record or a table in a page: no mark-up in it is taken for HTML, MyST or a cell.

    Letters stay; whatever else could begin mark-up becomes a character reference.
    """
    safe = " .,;:!?+-=/%()@"  # none of them alone begins mark-up inside a line
    return "".join(c if c.isalnum() or c in safe or ord(c) > 127 and c.isprintable()
                   else f"&#{ord(c)};" if c.isprintable() else " " for c in str(text))  # fmt: skip


def status_text(pages) -> str:
    """The reproduction status as one table a paper, from records and chapters.

    Chapters that are in `pages` are linked.
    """
    table = progress.status()
    kinds, states = table["kind"].value_counts(), table["state"].value_counts()
    counted = ", ".join(f"{states.get(state, 0)} {state}" for state in STATES)
    lines = [f"Of {kinds['table']} tables and {kinds['figure']} figures: {counted}.", ""]
    for paper, rows in table.groupby("paper", sort=False):
        lines += [f"## {printed.PAPERS[paper]}", ""]
        lines += ["| item | what it shows | state | numbers | where |"]
        lines += ["| --- | --- | --- | ---: | --- |"]
        for row in rows.itertuples():
            shown = f"{row.title}. *{row.note}.*" if row.note else row.title
            numbers = f"{row.ours} of {row.cells}" if row.cells else ""
            page = f"notebooks/{row.chapter}"
            where = f"{{doc}}`{row.chapter[:2]} </{page}>`" if page in pages else ""
            item, state = f"{row.kind.title()} {row.number}", row.state
            cells = [item.replace(" ", NO_BREAK), shown, state.replace(" ", NO_BREAK)]
            cells += [numbers.replace(" ", NO_BREAK), where]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, *ratio_lines(), *shortfall_lines(), *record_lines()])


def ratio_lines() -> list[str]:
    """Our Recall@10 and NDCG@10 of every recorded system and dataset over the printed ones."""
    lines = ["(ours-over-printed)=", "## Ours over printed", ""]
    found = progress.ratios()
    if found.empty:
        return [*lines, "No run of the papers' size is recorded yet.", ""]
    metrics = {"recall@10": "R@10", "ndcg@10": "N@10"}
    head = [f"{m} {what}" for m in metrics.values() for what in ("printed", "ours", "ratio")]
    lines += ["| " + " | ".join(["paper", "system", "dataset", "budget", "seeds", *head]) + " |"]
    lines += ["| --- | --- | --- | --- |" + " ---: |" * (1 + len(head))]
    for row in found.to_dict("records"):
        cells = [printed.PAPERS[row["paper"]], row["system"], shown(row["dataset"])]
        cells += ["smaller" if row["smaller"] else "full", str(row["seeds"])]
        for metric in metrics:
            cells += [tables.format_number(row[f"{metric} {w}"]) for w in ("printed", "ours")]
            cells.append(f"{row[f'{metric} ratio']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def shortfalls(records=None, below: float = 0.95) -> pd.DataFrame:
    """Collect what was tried where ours stays below the printed value.

    Args:
        records: run records; default all recorded ones of the paper profile.
        below: a ratio of either metric under this counts.

    Returns:
        The rows of `progress.ratios` that count, with `tried` (text of `papers/tried.toml`, else
        what a smaller budget cut, else empty) and `runs`: (variant, seeds, Recall@10 and NDCG@10
        over the printed ones) of every variant recorded for that system and dataset, best NDCG@10
        on validation first.
    """
    if records is None:
        records = load_records(profile="paper", smaller=True)
    records = list(records)
    papers = PACKAGE / "papers"
    text = tomllib.loads((papers / "tried.toml").read_text(encoding="utf-8"))["tried"]
    tried = {(t["paper"], t["system"], t["dataset"]): t["text"] for t in text}
    found = progress.ratios(records)
    found = found[(found[["recall@10 ratio", "ndcg@10 ratio"]] < below).any(axis=1)].copy()
    texts, runs = [], []
    for row in found.to_dict("records"):
        of_it = system_printed_as(row["system"]), row["dataset"]
        own = [r for r in records if (r["system"], r["dataset"]) == of_it]
        metrics = ["recall@10", "ndcg@10"]
        test, chosen = (
            tables.summarise(own, metrics, part).set_index(["variant", "metric"])
            for part in ("test", "validation")
        )
        order = chosen.xs("ndcg@10", level="metric")["value"].sort_values(ascending=False).index
        over = [[test.loc[(v, m), "value"] / row[f"{m} printed"] for m in metrics] for v in order]
        runs.append([(v, int(test.loc[(v, "ndcg@10"), "seeds"]), *o) for v, o in zip(order, over)])
        texts.append(tried.get((row["paper"], row["system"], row["dataset"]), row["smaller"]))
    return found.assign(tried=texts, runs=runs)


def shortfall_lines() -> list[str]:
    """What was tried for every ratio below 0.95, and what each variant reached."""
    lines = ["(below-printed)=", "## Below 0.95 of the printed value: what was tried", ""]
    found = shortfalls()
    if found.empty:
        return [*lines, "No recorded system stays below.", ""]
    lines += ["A variant's two figures are its Recall@10 and NDCG@10 over the printed ones; the"]
    lines += ["variant that does best on validation stands first.", ""]
    for row in found.itertuples():
        runs = [
            f"{shown(variant)} {recall:.2f} / {ndcg:.2f}" for variant, _, recall, ndcg in row.runs
        ]
        where = f"**{row.system} on {shown(row.dataset)}** ({printed.PAPERS[row.paper]})"
        why = row.tried.strip()
        if row.smaller:
            why = f"A smaller budget than the paper's ({shown(why)})."
        lines += [f"- {where}. {why} Recorded: {', '.join(runs)}."]
    return [*lines, ""]


def record_lines() -> list[str]:
    """Every recorded run of the paper profile: what it reached on test, and on what."""
    lines = ["(recorded-runs)=", "## Recorded runs", ""]
    records = load_records(profile="paper", smaller=True)
    if not records:
        return [*lines, "None yet.", ""]
    devices = pd.Series([r["device"].split(", ")[0] for r in records]).value_counts()
    where = ", ".join(f"{count} on {shown(device)}" for device, count in devices.items())
    lines += [
        "On the test part, averaged over seeds. *Epochs* are the recommender's, and in brackets"
    ]
    lines += ["the one that was kept. A smaller budget, and all else that a run cut, stands in its"]
    lines += [f"file in `book/results`. Runs: {where}.", ""]
    head = ("dataset", "system", "variant", "budget", "seeds", "R@10", "N@10", "epochs", "hours")
    lines += ["| " + " | ".join(head) + " |", "| --- | --- | --- | --- |" + " ---: |" * 5]
    groups: dict = {}
    for r in records:
        budget = "smaller" if is_smaller(r) else "full"
        key = r["dataset"], title(r["system"]), r["variant"], budget
        groups.setdefault(key, []).append(r)
    for key, runs in sorted(groups.items()):
        metrics = pd.DataFrame(r["metrics"]["test"] for r in runs).mean()
        stages = [r["cost"]["stages"]["recommender"] for r in runs]
        cells = [*map(shown, key), str(len(runs))]
        cells += [tables.format_number(metrics[m]) for m in ("recall@10", "ndcg@10")]
        cells += [", ".join(f"{s['epochs']} ({s['best_epoch']})" for s in stages if "epochs" in s)]
        cells += [f"{sum(r['cost']['seconds'] for r in runs) / len(runs) / 3600:.2f}"]
        lines.append("| " + " | ".join(cell.replace(" ", NO_BREAK) for cell in cells) + " |")
    return [*lines, ""]


def claims_text(pages) -> str:
    """The papers' claims and the verdicts so far: how many of each, then a row for each claim."""
    listed = verdicts.claims()
    papers = {key: name for key, name in printed.PAPERS.items() if key in set(listed["paper"])}
    lines = ["| verdict so far | " + " | ".join(papers.values()) + " |"]
    lines += ["| --- |" + " ---: |" * len(papers)]
    for verdict in verdicts.VERDICTS:
        of_it = listed.loc[listed["verdict"] == verdict, "paper"]
        counts = [str((of_it == paper).sum()) for paper in papers]
        lines.append(f"| {verdict} | " + " | ".join(counts) + " |")
    for paper, rows in listed.groupby("paper", sort=False):
        lines += ["", f"## {papers[paper]}", "", ":::{list-table}", ":header-rows: 1"]
        lines += [":class: claims", ""]
        head = ("claim", "verdict so far", "what would confirm or refute it", "evidence")
        for row in [head, *rows.itertuples()]:
            if row is not head:
                claim = f"**{row.id}** {row.claim} *({row.where})*"
                verdict = f"**{row.verdict}** {row.note}"
                row = (claim, verdict, row.test, "; ".join(map(evidence, row.evidence)))
            lines += [("  - " if i else "* - ") + cell for i, cell in enumerate(row)]
        lines.append(":::")
    return "\n".join(lines)


def evidence(name: str) -> str:
    """A claim's evidence as a link: an anchor, an anchor's section, or the name of a record."""
    anchor, _, section = name.partition(": ")
    if "--" in name:
        return f"`{name}`"
    role = {"fig": "numref", "prop": "prf:ref"}.get(anchor.split("-")[0], "ref")
    return f"{{{role}}}`{anchor}`" + (f", \u201c{section}\u201d" if section else "")


def public_names() -> dict[str, list[str]]:
    """Module or subpackage -> its public names, in the order of the way of the data.

    A subpackage says what is public in its `__all__`; a module of the top level by underscores.
    """
    import semid_lib

    found = {info.name for info in pkgutil.iter_modules(semid_lib.__path__)}
    order = [*WAY, *sorted(found - set(WAY))]
    names = {}
    for short in (name for name in order if name in found and name not in NOT_LISTED):
        module = importlib.import_module(f"semid_lib.{short}")
        own = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        ]
        names[module.__name__] = list(getattr(module, "__all__", own))
    return {name: public for name, public in names.items() if public}


def api_text(pages) -> str:
    """The reference: a section for each module, filled by autodoc from the docstrings."""
    lines = []
    for module, names in public_names().items():
        short = module.removeprefix("semid_lib.")
        loaded = importlib.import_module(module)
        lines += [f"(api-{short.replace('_', '-')})=", f"## {short}", ""]
        lines += ["```{eval-rst}", f".. automodule:: {module}", "   :no-members:", ""]
        for name in names:
            value = getattr(loaded, name)
            kind = "autofunction" if inspect.isroutine(value) else "autoclass"
            if not (inspect.isroutine(value) or inspect.isclass(value)):
                continue
            lines += [f".. {kind}:: {module}.{name}"]
            lines += ["   :members:", "   :show-inheritance:", ""] if kind == "autoclass" else [""]
        lines += ["```", ""]
    return "\n".join(lines)


def fill_page(app, docname, source) -> None:
    """Put the generated part of a page where the page says `% generated`."""
    parts = {STATUS: status_text, CLAIMS: claims_text, API: api_text}
    if docname in parts:
        source[0] = source[0].replace("% generated", parts[docname](app.env.found_docs))


def always_read(app, env, added, changed, removed):
    """Read the generated pages in every build: their sources are not files that Sphinx knows."""
    return [name for name in (STATUS, CLAIMS, API) if name in env.found_docs]


def convert_docstring(app, what, name, obj, options, lines) -> None:
    """Hand autodoc a docstring of our style as reStructuredText."""
    lines[:] = to_rst("\n".join(lines)).split("\n")


def skip_routing(app, what, name, obj, skip, options):
    """Leave out the methods that scikit-learn adds to every estimator for metadata routing."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def drop_thebe(app, pagename, templatename, context, doctree) -> None:
    """Leave out the live-code loader: nothing uses it, and it is fetched from another site."""

    def is_loader(file) -> bool:
        attributes = getattr(file, "attributes", {})
        return "thebe" in f"{getattr(file, 'filename', file)} {attributes.get('body')}".lower()

    files = context.get("script_files", [])
    context["script_files"] = [file for file in files if not is_loader(file)]


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("source-read", fill_page)
    app.connect("env-get-outdated", always_read)
    app.connect("autodoc-process-docstring", convert_docstring)
    app.connect("autodoc-skip-member", skip_routing)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
