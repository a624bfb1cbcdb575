"""Run records, printed tables, the formatter and the status of the reproduction."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from semid_lib.environment import CHECKOUT
from semid_lib.errors import InputError, RecordError
from semid_lib.reports import beside, printed, progress, tables, verdicts
from semid_lib.runs import records
from semid_lib.systems import SYSTEMS, Cut, sentences

CODED = CHECKOUT / "book" / "results" / "codes"


def make_record(system="sasrec", dataset="beauty", seed=0, value=0.05, profile="paper", cut=()):
    """A complete record whose metrics are all `value`."""
    metrics = dict.fromkeys(records.METRICS, value)
    parts = ("validation", "validation_unseen", "test", "test_unseen")
    return {
        "system": system, "variant": "default", "dataset": dataset, "dataset_sha256": "0" * 64,
        "profile": profile, "seed": seed, "metrics": {p: dict(metrics) for p in parts},
        "intervals": {}, "diagnostics": {}, "cost": {"seconds": 60.0, "stages": {}}, "config": {},
        "cut": list(cut), "device": "cpu", "versions": {}, "commit": "0", "curve": {},
    }  # fmt: skip


# ---------------------------------------------------------------- records


def test_record_round_trip_and_its_file_name(tmp_path):
    record = make_record("sasrec*")
    path = records.write_record(record, tmp_path)
    assert path.name == "sasrec-star--default--beauty--paper--s0.json"
    assert records.load_records(tmp_path) == [record]


@pytest.mark.parametrize(
    "text, safe",
    [("sasrec*", "sasrec-star"), ("../../etc/passwd", "etc-passwd"), ("My Data", "my-data"),
     ("a/b\\c", "a-b-c"), ("...", "ab5df625"), ("atm1-intent0", "atm1-intent0")],
)  # fmt: skip
def test_slugs_are_safe_in_a_file_name(text, safe):
    assert records.slug(text) == safe
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", safe)


def test_records_are_filtered_by_key(tmp_path):
    for dataset in ("beauty", "toys", "sports"):
        records.write_record(make_record(dataset=dataset), tmp_path)
    found = records.load_records(tmp_path, dataset=["beauty", "toys"], system="sasrec")
    assert [r["dataset"] for r in found] == ["beauty", "toys"]
    assert records.load_records(tmp_path, system="resid") == []


def test_click_records_are_rows(tmp_path):
    assert len(records.click_records(tmp_path)) == 0
    (tmp_path / "clicks").mkdir()
    for name, value in (("b", 0.7), ("a", 0.6)):
        text = json.dumps({"tokenizer": name, "metrics": {"all": {"uauc": value}}})
        (tmp_path / "clicks" / f"{name}.json").write_text(text)
    found = records.click_records(tmp_path)
    assert found["tokenizer"].tolist() == ["a", "b"]
    assert found["metrics.all.uauc"].tolist() == [0.6, 0.7]
    (tmp_path / "clicks" / "c.json").write_text("{")
    with pytest.raises(RecordError, match=r"c\.json \(1 bytes\) is not JSON"):
        records.click_records(tmp_path)


def test_no_records_is_an_empty_list(tmp_path):
    assert records.load_records(tmp_path / "absent") == []


@pytest.mark.parametrize("key", ["seed", "config", "metrics.test.ndcg@20", "cost.seconds"])
def test_missing_key_is_named_with_the_file(tmp_path, key):
    record = make_record()
    path = records.write_record(record, tmp_path)
    *way, last = key.split(".")
    inner = record
    for step in way:
        inner = inner[step]
    del inner[last]
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match=f"{re.escape(path.name)} lacks '{re.escape(key)}'"):
        records.load_records(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_cut_short_record_is_refused_by_name(tmp_path, share):
    path = records.write_record(make_record(), tmp_path)
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RecordError, match=path.name):
        records.load_records(tmp_path)


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null"])
def test_json_that_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(RecordError, match="x.json"):
        records.load_records(tmp_path)


@pytest.mark.parametrize("value", [-0.1, 1.5, "0.1", None, math.nan])
def test_a_metric_that_is_no_share_is_refused(value):
    record = make_record()
    record["metrics"]["test"]["mrr"] = value
    with pytest.raises(RecordError, match="metrics.test.mrr"):
        records.check_record(record)


@pytest.mark.parametrize("key", ["system", "variant", "dataset", "device"])
@pytest.mark.parametrize(
    "value",
    ["<script>alert(1)</script>", "a | b", "a\nb", "a\x1b[31mb", "`x`", "", 3, None, "a" * 201],
)
def test_mark_up_and_escapes_in_names_are_refused(key, value):
    with pytest.raises(RecordError, match=f"{key} = "):
        records.check_record({**make_record(), key: value})


def test_renamed_record_is_refused(tmp_path):
    path = records.write_record(make_record(), tmp_path)
    path.rename(tmp_path / "other.json")
    with pytest.raises(RecordError, match="renamed"):
        records.load_records(tmp_path)


def test_missing_record_says_so(tmp_path):
    with pytest.raises(RecordError, match="no record absent"):
        records.load_record(tmp_path / "absent.json")


def test_an_edited_record_is_refused_and_an_old_one_is_read(tmp_path):
    record = make_record()
    path = records.write_record(record, tmp_path)
    text = path.read_text()
    path.write_text(text.replace("0.05", "0.99", 1))
    with pytest.raises(RecordError, match=f"{path.name} does not hold what was written"):
        records.load_record(path)
    path.write_text(json.dumps(record))
    assert records.load_record(path) == record


def test_a_record_is_never_replaced_silently(tmp_path):
    record = make_record()
    path = records.write_record(record, tmp_path)
    before = path.read_bytes()
    assert records.write_record(record, tmp_path) == path  # the same content again
    other = {**record, "commit": "1"}
    with pytest.raises(RecordError, match="exists and differs"):
        records.write_record(other, tmp_path)
    assert path.read_bytes() == before
    records.write_record(other, tmp_path, force=True)
    assert records.load_record(path)["commit"] == "1"


def test_incomplete_record_is_not_written(tmp_path):
    with pytest.raises(RecordError, match="lacks"):
        records.write_record({"system": "x"}, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["電影", "фильмы", "데이터 1", "???", ""])
def test_names_in_other_letters_are_two_names(name):
    safe = records.slug(name)
    assert re.fullmatch(r"[a-z0-9-]+", safe) and safe != records.slug(name + "電")
    assert safe == records.slug(name)


def test_records_of_different_data_with_one_name_never_meet(tmp_path):
    own = {**make_record(seed=7, value=0.9), "dataset_sha256": "1" * 64}
    for both in ([make_record(), own], [own, make_record("hgn")]):
        with pytest.raises(RecordError, match="different data that are both called 'beauty'"):
            tables.summarise(both)
        with pytest.raises(RecordError, match="different data"):
            beside.side_by_side(None, both)


@pytest.mark.parametrize("part, metric", [("tst", "mrr"), ("test", "recal@10"), ("test", "SC")])
def test_a_part_or_metric_that_is_not_there_is_named(part, metric):
    for listed in ([make_record()], []):
        with pytest.raises(InputError, match=f"{part}|{metric}"):
            tables.summarise(listed, [metric], part)
        with pytest.raises(InputError, match=f"{part}|{metric}"):
            beside.side_by_side(None, listed, metrics=[metric], part=part)


def test_records_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SEMID_RESULTS", str(tmp_path))
    assert records.records_folder() == tmp_path
    monkeypatch.delenv("SEMID_RESULTS")
    assert records.records_folder().parts[-2:] == ("book", "results")
    monkeypatch.setattr(records, "CHECKOUT", tmp_path)
    assert records.records_folder().name == "_records"


def test_the_committed_records_are_whole():
    for record in records.load_records():
        assert record["metrics"]["test"]["recall@5"] <= record["metrics"]["test"]["recall@20"]


# ---------------------------------------------------------------- codes alone


def with_codes(record, alone=False, purity=0.5):
    """The record of a run that made codes, or of one that stopped there."""
    record = {**record, "cost": {"seconds": 9.0, "stages": {
        "encoder": {"seconds": 6.0}, "quantizer": {"seconds": 3.0}}}}  # fmt: skip
    terms = {"variance": {"H(z)": 1.0, "H(z|c_l)": [0.9, 0.8]}}
    record["diagnostics"] = {
        "encoder": {"purity": {"category": purity}}, "quantizer": {"gini": 0.0, "terms": terms},
    }  # fmt: skip
    if alone:
        record = {**record, "until": "quantizer"}
        del record["metrics"], record["intervals"]
    return record


def test_codes_alone_lie_apart_and_are_no_records_of_runs(tmp_path):
    path = records.write_record(with_codes(make_record("q2"), alone=True), tmp_path)
    assert path == tmp_path / "codes" / "q2--default--beauty--paper--s0.json"
    assert records.load_records(tmp_path) == []
    assert records.load_record(path)["until"] == "quantizer"


def test_code_records_collects_both_kinds_and_a_whole_run_wins(tmp_path):
    both = make_record("resid")
    records.write_record(with_codes(both, alone=True, purity=0.1), tmp_path)
    records.write_record(with_codes(both, purity=0.2), tmp_path)
    records.write_record(with_codes(make_record("q2", "toys"), alone=True), tmp_path)
    records.write_record(make_record("sasrec"), tmp_path)  # has no codes
    frame = records.code_records(folder=tmp_path).set_index("system")
    assert frame["kind"].to_dict() == {"resid": "run", "q2": "codes"}
    assert frame.loc["resid", "encoder.purity.category"] == 0.2
    assert frame.loc["q2", "quantizer.terms.variance.H(z|c_l)"] == [0.9, 0.8]
    assert frame.loc["q2", ["encoder.seconds", "quantizer.seconds"]].tolist() == [6.0, 3.0]
    for wanted in ({"system": "q2"}, {"dataset": ["toys"]}):
        assert records.code_records(folder=tmp_path, **wanted)["system"].tolist() == ["q2"]


def test_no_code_records_is_an_empty_frame_with_its_keys(tmp_path):
    frame = records.code_records(folder=tmp_path)
    assert frame.empty and {"system", "variant", "dataset", "kind"} <= set(frame.columns)


@pytest.mark.parametrize("key", ["diagnostics.quantizer.terms", "cost.stages", "diagnostics"])
def test_incomplete_codes_are_refused(tmp_path, key):
    record = with_codes(make_record(), alone=True)
    *way, last = key.split(".")
    inner = record
    for step in way:
        inner = inner[step]
    del inner[last]
    with pytest.raises(RecordError, match="lacks 'diagnostics|lacks 'cost.stages'"):
        records.write_record(record, tmp_path)


def test_a_run_without_metrics_is_not_taken_for_codes(tmp_path):
    record = with_codes(make_record(), alone=True)
    del record["until"]
    with pytest.raises(RecordError, match="lacks 'intervals'"):
        records.write_record(record, tmp_path)


# ---------------------------------------------------------------- printed tables


def test_all_25_tables_are_there_with_their_printed_size():
    rows = {
        "resid": [13, 5, 3, 560, 72, 10, 10, 32, 3, 8],
        "acerec": [176, 88, 48, 64, 6, 30],
        "r3vae": [168, 168, 3, 5, 3, 7, 4, 5, 3],
    }
    for paper, sizes in rows.items():
        assert [len(printed.paper_table(paper, n + 1)) for n in range(len(sizes))] == sizes


def test_printed_cells_that_were_read_off_the_papers():
    t4 = printed.paper_table("resid", 4).set_index(["model", "dataset", "metric"])["value"]
    assert t4["ReSID", "IS", "R@10"] == 0.0512 and t4["SASRec*", "IS", "R@10"] == 0.0538
    t6 = printed.paper_table("r3vae", 6).set_index("method")
    assert t6.loc["RQ-VAE", "CR"] == 48.99
    assert printed.paper_table("acerec", 5)["n_interactions"].sum() == 260739 + 176139 + 148185 + (
        10261 + 53258 + 160792
    )


def test_as_printed_keeps_trailing_zeros():
    t3 = printed.paper_table("acerec", 3, as_printed=True)
    assert "0.0490" in set(t3["value"])
    assert printed.paper_table("acerec", 3)["value"].dtype == float


@pytest.mark.parametrize("paper, number", [("resid", 11), ("tiger", 1), ("acerec", 0)])
def test_unknown_table_lists_the_known_ones(paper, number):
    with pytest.raises(InputError, match="resid.10"):
        printed.paper_table(paper, number)


def test_long_form_names_our_systems_and_data():
    cells = printed.printed_cells("acerec", 1)
    ours = cells[(cells["system"] == "sasrec") & (cells["dataset"] == "beauty")]
    assert dict(zip(ours["metric"], ours["paper"])) == {
        "recall@5": 0.0387, "ndcg@5": 0.0249, "recall@10": 0.0605, "ndcg@10": 0.0318,
    }  # fmt: skip
    assert "Improv._pct" not in set(cells["model"])


def test_resids_sets_are_not_taken_for_ours():
    cells = printed.printed_cells("resid", 4)
    assert cells["dataset"].isna().all() and set(cells["system"].dropna()) == {
        "resid", "tiger", "sasrec", "sasrec*", "bert4rec", "bert4rec*", "hgn", "hgn*", "s3rec",
        "s3rec*",
    }  # fmt: skip


def test_ablations_are_found_under_their_printed_names():
    cells = printed.printed_cells("resid", 5)
    assert set(cells["system"].dropna()) == {"resid", "e1", "e2", "e3", "q1", "q2"}
    assert cells["system"].notna().all()


def test_wide_tables_become_long_and_others_empty():
    wide = printed.printed_cells("r3vae", 9)
    assert set(wide["metric"]) == {"recall@10", "ndcg@10", "SC", "PD"}
    assert set(wide["variant"]) == {"lambda-0.001", "lambda-0.01", "lambda-0.1"}
    ablation = printed.printed_cells("r3vae", 8)
    assert len(ablation) == 5 * 8 and set(ablation["dataset"]) == {"beauty"}
    assert printed.printed_cells("resid", 6).empty


# ---------------------------------------------------------------- the formatter


@pytest.mark.parametrize(
    "value, kind, text",
    [
        (0.0605, "metric", "0.0605"), (0.1, "metric", "0.1000"), (12101, "count", "12,101"),
        (-0.0318, "percent", "−3.2 %"), (0.05, "percent", "+5.0 %"), (0.05, "share", "5.0 %"),
        (0.25, "seconds", "250 ms"), (59.96, "seconds", "60.0 s"), (125, "seconds", "2 min 05 s"),
        (7500, "seconds", "2 h 05 min"), (1.5e9, "bytes", "1.5 GB"), (3e6, "bytes", "3 MB"),
        (None, "metric", "not run"), (math.nan, "seconds", "not run"), ("as is", "metric", "as is"),
        (1.98765, "real", "1.988"),
    ],
)  # fmt: skip
def test_format_number(value, kind, text):
    assert tables.format_number(value, kind) == text


@pytest.mark.parametrize(
    "value, digits, text",
    [
        (0.06049, 3, "0.060"), (-1.5, 0, "−2"), (np.float32(0.25), 1, "0.2"), (12101, 2, "12101"),
        (np.int64(7), 2, "7"), (math.nan, 2, ""), (None, 2, ""), (np.float32("nan"), 2, ""),
        ("-1.81", 3, "−1.81"), ("as-is", 3, "as-is"),
    ],
)  # fmt: skip
def test_format_number_of_given_digits(value, digits, text):
    assert tables.format_number(value, digits=digits, missing="") == text


def test_table_of_given_digits():
    frame = pd.DataFrame({"a": [0.5, math.nan], "b": [1.25, -2.0], "n": [1234, 5], "m": [0.1, 1]})
    shown = tables.table(frame, kinds={"m": "metric"}, digits=1, missing="none").formatted()
    assert shown.to_numpy().tolist() == [
        ["0.5", "1.2", "1234", "0.1000"], ["none", "−2.0", "5", "1.0000"]
    ]  # fmt: skip
    shown = tables.table(frame, digits={"b": 3}).formatted()
    assert shown["b"].tolist() == ["1.250", "−2.000"] and shown["n"].tolist() == ["1,234", "5"]
    assert shown["a"].tolist() == ["0.5", "not run"]


def test_table_as_text_and_html_escapes_and_folds_the_spread():
    frame = pd.DataFrame({"name": ["<b>"], "x": [0.5], "x_std": [0.01], "n": [1234]})
    shown = tables.table(frame, "A & B", {"x": "metric"})
    assert "0.5000 ± 0.0100" in str(shown) and "1,234" in str(shown)
    assert "x_std" not in str(shown)
    page = shown._repr_html_()
    assert "<caption>A &amp; B</caption>" in page and "&lt;b&gt;" in page and "<b>" not in page


# ---------------------------------------------------------------- side by side


def rows_of(shown):
    frame = shown.frame.set_index(["system", "dataset", "metric"])
    return frame, shown.formatted().set_index(["system", "dataset", "metric"])


def test_side_by_side_averages_seeds_and_measures_the_gap():
    cells = printed.printed_cells("acerec", 1)
    cells = cells[cells["system"].notna()]
    made = [make_record(seed=s, value=v, cut=("few epochs",)) for s, v in enumerate((0.05, 0.07))]
    made.append(make_record("markov", value=0.04))
    live = [make_record(dataset="ml-100k", profile="quick", value=0.2)]
    frame, text = rows_of(beside.side_by_side(cells, made, live, metrics=["recall@10"]))
    row = frame.loc["SASRec", "beauty", "recall@10"]
    assert row["paper"] == 0.0605 and row["seeds"] == 2 and row["cut"] == "few epochs"
    assert row["recorded"] == pytest.approx(0.06)
    assert row["recorded_std"] == pytest.approx(0.02 / math.sqrt(2))
    assert row["gap"] == pytest.approx(0.06 / 0.0605 - 1)
    shown = text.loc["SASRec", "beauty", "recall@10"]
    assert shown["recorded"] == "0.0600 ± 0.0141" and shown["quick"] == "not run"
    assert shown["gap"] == "−0.8 %"
    # A row the paper prints and we did not run; ours that the paper does not print; live only.
    assert text.loc["SASRec", "toys", "recall@10"]["recorded"] == "not run"
    assert text.loc["Markov chain", "beauty", "recall@10"]["paper"] == "none"
    assert text.loc["SASRec", "ml-100k", "recall@10"]["quick"] == "0.2000"
    assert list(frame.index)[0] == ("HGN", "sports", "recall@10")  # the paper's order


def test_side_by_side_without_anything_is_an_empty_table():
    assert beside.side_by_side().frame.empty


def test_side_by_side_reads_the_part_that_is_asked_for():
    record = make_record(value=0.1)
    record["metrics"]["test_unseen"]["recall@10"] = 0.3
    for part, value in (("test", 0.1), ("test_unseen", 0.3)):
        shown = beside.side_by_side(None, [record], metrics=["recall@10"], part=part)
        assert shown.frame["recorded"].tolist() == [value]


# ---------------------------------------------------------------- status


def test_status_counts_25_tables_and_24_figures():
    frame = progress.status([])
    counts = frame.groupby(["paper", "kind"]).size().to_dict()
    assert counts == {
        ("resid", "table"): 10, ("resid", "figure"): 8, ("acerec", "table"): 6,
        ("acerec", "figure"): 12, ("r3vae", "table"): 9, ("r3vae", "figure"): 4,
    }  # fmt: skip
    for (_paper, _kind), group in frame.groupby(["paper", "kind"]):
        assert group["number"].tolist() == list(range(1, len(group) + 1))
    assert frame["title"].is_unique
    assert set(frame["state"]) <= {"live", "recorded", "partly", "not yet", "not possible"}
    assert (frame.loc[frame["state"] == "not possible", "note"] != "").all()


def test_status_counts_the_printed_numbers():
    cells = progress.status([]).query("kind == 'table'").set_index(["paper", "number"])["cells"]
    assert cells["resid", 4] == 560 and cells["acerec", 1] == 176
    assert cells["resid", 7] == 30 and cells["acerec", 5] == 24 and cells["r3vae", 6] == 35
    assert cells["resid", 8] == 32 and cells["r3vae", 9] == 12


def test_status_follows_the_records():
    before = progress.status([]).set_index(["paper", "kind", "number"])
    after = progress.status([make_record()]).set_index(["paper", "kind", "number"])
    key = ("acerec", "table", 1)
    assert before.loc[key, "ours"] == 0 and before.loc[key, "state"] == "not yet"
    assert after.loc[key, "ours"] == 4 and after.loc[key, "state"] == "partly"
    other = after.drop(index=key)
    pd.testing.assert_frame_equal(other, before.drop(index=key))
    sweep = progress.status([{**make_record(), "variant": "size-1"}])
    pd.testing.assert_frame_equal(sweep, progress.status([]))


def test_status_counts_ablations_and_measures_of_codes():
    row = {"system": "acerec", "variant": "atm0-intent1-isa0", "dataset": "office"}
    frame = progress.status([{**make_record(), **row}]).set_index(["paper", "kind", "number"])
    assert frame.loc[("acerec", "table", 3), "ours"] == 4
    codes = {"system": "r3vae", "variant": "no-sc", "dataset": "beauty", "until": "quantizer"}
    codes["diagnostics"] = {"quantizer": {"sc": 0.9, "pd": {"mean": -1.7}}}
    key = ["paper", "kind", "number"]  # executed chapters count, too
    ours, live = (progress.status(r).set_index(key)["ours"] for r in ([codes], []))
    assert (ours - live)[ours > live].to_dict() == {("r3vae", "table", 8): 2}


def test_every_printed_ablation_names_a_run_that_can_be_made():
    for paper, number in (("acerec", 3), ("acerec", 4), ("r3vae", 8), ("r3vae", 9)):
        cells = printed.printed_cells(paper, number)
        assert not cells.empty
        for system, variant in cells[["system", "variant"]].drop_duplicates().to_numpy():
            assert variant in {"default", *SYSTEMS[system].variants}


def test_what_is_live_is_read_from_the_executed_chapters(tmp_path, monkeypatch):
    def cell(data, figure=None):
        meta = {"mystnb": {"figure": {"name": figure}}} if figure else {}
        return {"cell_type": "code", "metadata": meta, "outputs": [{"data": data}]}

    ours = pd.DataFrame({"users": [1.0, None], "items": [2.0, 3.0]})
    shown = tables.table(ours, recomputes={"acerec.table.5": ours})._repr_mimebundle_()
    assert tables.table(ours)._repr_mimebundle_() == {}
    (tmp_path / "notebooks").mkdir()
    place = tmp_path / "notebooks" / "02_data.ipynb"
    monkeypatch.setattr(progress, "CHECKOUT", tmp_path)

    def states():
        frame = progress.status([]).set_index(["paper", "kind", "number"])
        table, figure = frame.loc["acerec", "table", 5], frame.loc["resid", "figure", 8]
        return table["ours"], table["state"], figure["state"]

    place.write_text(json.dumps({"cells": [cell({}, "fig-gaoq-eight"), {"metadata": {}}]}))
    assert states() == (0, "not yet", "not yet")
    drawn = cell({"image/png": "..."}, "fig-gaoq-eight")
    place.write_text(json.dumps({"cells": [drawn, cell(shown)]}))
    assert states() == (3, "partly", "live")
    full = {key: {"acerec.table.5": 24} for key in shown}
    place.write_text(json.dumps({"cells": [cell(full)]}))
    assert states() == (24, "live", "not yet")


def test_runs_with_a_smaller_budget_are_read_only_if_asked_for(tmp_path):
    less = ["settings: recommender epochs 2 (paper 500)"]
    for record in (
        make_record(), make_record(seed=1, cut=less), make_record(cut=less, profile="quick"),
        make_record(seed=2, cut=["data: other"]),
    ):  # fmt: skip
        records.write_record(record, tmp_path)
    found = records.load_records(tmp_path)
    assert {(r["profile"], r["seed"]) for r in found} == {("paper", 0), ("paper", 2), ("quick", 0)}
    every = records.load_records(tmp_path, smaller=True)
    assert len(every) == 4 and sum(map(records.is_smaller, every)) == 1


def test_what_a_record_cuts_is_typed_whether_it_was_written_so_or_not():
    """A record of before has sentences alone; one of now has both, and they agree."""
    cuts = [
        Cut("method", "encoder", note="batches of windows"), Cut("data", note="Amazon-2014"),
        Cut("setting", "encoder", "dim", "64", "128"),
        Cut("setting", "recommender", "epochs", "2", "500"),
    ]  # fmt: skip
    now = {**make_record(), **records.cut_keys(cuts)}
    assert now["cut"] == [
        "encoder: batches of windows", "data: Amazon-2014",
        "settings: encoder dim 64 (paper 128), recommender epochs 2 (paper 500)",
    ]  # fmt: skip
    assert records.cuts_of(json.loads(json.dumps(now))) == cuts
    before = {key: value for key, value in now.items() if key != "cuts"}
    assert records.cuts_of(before) == cuts
    assert records.is_smaller(now) and records.is_smaller(before)


@pytest.mark.parametrize(
    "cuts",
    [
        [],
        [{"kind": "data", "note": "Amazon-2023"}],
        [{"kind": "date", "note": "Amazon-2014"}],
        [{"kind": "data", "note": "Amazon-2014", "why": "?"}],
        ["data: Amazon-2014"],
        None,
    ],
)
def test_cuts_that_say_anything_else_than_their_sentences_are_refused(cuts):
    record = {**make_record(), **records.cut_keys([Cut("data", note="Amazon-2014")])}
    records.check_record(record)
    with pytest.raises(RecordError, match="other cuts than its sentences"):
        records.check_record({**record, "cuts": cuts})


def test_every_committed_record_gives_its_sentences_back():
    """Reading and writing again changes no character of what a record of before says."""
    found = [*records.load_records(smaller=True), *records.load_records(CODED)]
    assert len(found) > 100
    for record in found:
        assert sentences(records.cuts_of(record)) == record["cut"], records.record_name(record)


def test_ratios_are_ours_over_printed():
    assert progress.ratios([]).empty
    made = [make_record(), {**make_record(), "seed": 1}]
    made[1]["metrics"] = {"test": dict.fromkeys(records.METRICS, 0.3)}
    (row,) = progress.ratios(made).to_dict("records")
    ours = (made[0]["metrics"]["test"]["recall@10"] + 0.3) / 2
    assert (row["paper"], row["system"], row["dataset"], row["seeds"]) == (
        "acerec", "SASRec", "beauty", 2,
    )  # fmt: skip
    assert row["recall@10 printed"] == 0.0605 and row["recall@10 ours"] == pytest.approx(ours)
    assert row["recall@10 ratio"] == pytest.approx(ours / 0.0605)


def test_ratios_name_the_settings_that_a_smaller_budget_cut():
    words = "recommender epochs 2 (paper 500)"
    less = [make_record(seed=seed, cut=["data: other", f"settings: {words}"]) for seed in (0, 1)]
    assert list(progress.ratios(less)["smaller"]) == [words]
    assert list(progress.ratios([make_record(cut=["data: other"])])["smaller"]) == [""]


def test_ratios_leave_out_the_rows_of_ablations():
    record = make_record("acerec", "instruments")
    assert list(progress.ratios([record])["system"]) == ["ACERec"]  # and not "6", nor "merging ATM"


# ---------------------------------------------------------------- claims


def test_what_a_claim_names_as_evidence_exists():
    book = CHECKOUT
    chapters = {p: p.read_text() for p in (book / "notebooks").glob("[0-9]*.py")}
    stems = {p.stem for p in (book / "book" / "results").rglob("*.json")}
    for claim in verdicts.claims().itertuples():
        for name in claim.evidence:
            anchor, _, section = name.partition(": ")
            if "--" in name:
                assert name in stems, (claim.id, name)
                continue
            marks = f"({anchor})=", f":label: {anchor}\n", f'"name": "{anchor}"'
            found = [t for t in chapters.values() if any(mark in t for mark in marks)]
            assert len(found) == 1, (claim.id, name)
            titles = [t.lstrip("#") for t in found[0].split("\n") if t.startswith("##")]
            assert not section or f" {section}" in titles, (claim.id, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "proved"}, "verdict 'proved'"),
        ({"paper": "tiger"}, "of paper 'tiger'"),
        ({"evidence": []}, "names no evidence"),
        ({"note": None}, "lacks note"),
        ({"id": "B"}, r"twice \['B'\]"),
    ],
)
def test_a_faulty_claim_is_refused(monkeypatch, change, message):
    claim = dict.fromkeys(("claim", "where", "test", "note"), "")
    claim |= {"id": "A", "paper": "resid", "verdict": "mixed", "evidence": ["ch-gaoq"]}
    changed = {k: v for k, v in (claim | change).items() if v is not None}
    monkeypatch.setattr(
        verdicts.tomllib, "loads", lambda _: {"claim": [{**claim, "id": "B"}, changed]}
    )
    with pytest.raises(RecordError, match=message):
        verdicts.claims()
