"""Amazon's raw files: one of several GB, and slices of it against pandas and DuckDB.

The files are drawn in the form of 2023, with lines as long as Amazon's, and deleted afterwards.
SEMID_BENCH_GB sets the size of the large one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pytest

from harness import Job, measure, require, store
from semid_lib.data import read_amazon

SIZE = int(1e9 * float(os.environ.get("SEMID_BENCH_GB", 5)))
SLICE = 150_000_000
LIMIT = 2**30
COLUMNS = ["user_id", "parent_asin", "rating", "timestamp", "title"]


def draw_reviews(path, size):
    """Write about `size` bytes of reviews; the users, items and times of the rows: three `[M]`.

    Three in four reviews are by users who write a few, as on Amazon; items are heavy-tailed.
    """
    rng = np.random.default_rng(0)
    letters = [*"etaoinshrdlu", "é", "<br />", '"', "\n"]
    words = ["".join(rng.choice(letters, n)) for n in rng.integers(2, 10, 5000)]
    text = " ".join(rng.choice(words, 500_000))
    total, done, drawn = size // 600, 0, []
    with path.open("wb") as file:
        while done < size:
            rare = rng.random(10_000) < 0.75
            user = np.where(rare, 10**9 + rng.integers(total // 3, size=10_000),
                            rng.integers(total // 30, size=10_000))  # fmt: skip
            item = (rng.pareto(1.0, 10_000) * total / 400).astype(int) % (total // 5)
            time = rng.integers(1_300_000_000_000, 1_690_000_000_000, size=10_000)
            begin = rng.integers(len(text) - 20_000, size=10_000)
            end = begin + np.minimum(rng.lognormal(5.1, 1.1, 10_000), 20_000).astype(int)
            rows = zip(*(column.tolist() for column in (user, item, time, begin, end)))
            blob = "".join(review_line(*row, text) for row in rows).encode()
            file.write(blob)
            done += len(blob)
            drawn.append((user, item, time))
    return [np.concatenate(column) for column in zip(*drawn)]


def review_line(user, item, time, begin, end, text):
    body, title = json.dumps(text[begin:end]), json.dumps(text[begin : begin + 25])
    return (
        f'{{"rating": {1 + time % 5}.0, "title": {title}, "text": {body}, "images": [], '
        f'"asin": "B{item:09d}", "parent_asin": "B{item:09d}", "user_id": "A{user:027d}", '
        f'"timestamp": {time}, "helpful_vote": 0, "verified_purchase": true}}\n'
    )


def draw_items(path, items):
    """Write the records of these items; every tenth lacks its store."""
    details = {str(k): "lorem ipsum " * 4 for k in range(12)}
    with path.open("w") as file:
        for item in items.tolist():
            record = {
                "main_category": "Things", "title": f"Thing {item}", "average_rating": 4.2,
                "features": ["soft, light"] * 4, "description": ["A thing. " * 20], "price": None,
                "store": f"Store {item % 997}" if item % 10 else None,
                "categories": ["Things", f"A{item % 7}", f"B{item % 50}", f"C{item % 300}"],
                "details": details, "parent_asin": f"B{item:09d}",
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")


def true_sequences(user, item, time):
    """What must come out, from the numbers drawn: rows `[M', 3]` by user, time, file order."""
    frame = core(pd.DataFrame({"user": user, "item": item, "time": time}))
    frame = frame[frame["item"] % 10 != 0].sort_values(["user", "time"], kind="stable")
    return frame.assign(time=frame["time"] // 1000).to_numpy()


def core(frame):
    """The 5-core by pandas, of a table whose first columns are user and item."""
    while True:
        sizes = [frame.groupby(c)[c].transform("size") for c in frame.columns[:2]]
        keep = (sizes[0] >= 5) & (sizes[1] >= 5)
        if keep.all():
            return frame
        frame = frame[keep]


READ = """
import resource, sys, time
import numpy as np
from semid_lib.data import drop_incomplete_items, read_amazon
folder, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
def field(name):
    lines = open("/proc/self/status").read().split("\\n")
    return 1024 * next(int(l.split()[1]) for l in lines if l.startswith(name))
open("/proc/self/clear_refs", "w").write("5")
before, wall, cpu = field("VmRSS"), time.perf_counter(), time.process_time()
data = read_amazon(folder + "/r.jsonl", folder + "/meta_r.jsonl")
data = drop_incomplete_items(data)
print(time.perf_counter() - wall, time.process_time() - cpu, before, field("VmHWM"))
ids = [np.array([int(i[1:]) for i in ids]) for ids in (data.user_ids, data.item_ids)]
np.save(folder + "/rows.npy", np.stack([ids[0][data.user], ids[1][data.item], data.timestamp], 1))
"""


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_amazon_raw(folder):
    """A file larger than the memory that the process is allowed to take."""
    require(shutil.disk_usage(folder).free > 2 * SIZE, f"{2 * SIZE / 1e9:.0f} GB of disk needed")
    drawn = draw_reviews(folder / "r.jsonl", SIZE)
    draw_items(folder / "meta_r.jsonl", np.unique(drawn[1]))
    gb = [(folder / name).stat().st_size / 1e9 for name in ("r.jsonl", "meta_r.jsonl")]
    command = [sys.executable, "-c", READ, str(folder), str(LIMIT)]
    run = subprocess.run(command, capture_output=True, text=True)
    require(run.returncode == 0, run.stderr[-2000:])
    wall, cpu, before, peak = map(float, run.stdout.split())
    rows, true = np.load(folder / "rows.npy"), true_sequences(*drawn)
    require(np.array_equal(rows, true), "not the sequences that were drawn")
    each = (peak - before) / len(drawn[0])
    store({
        "job": "amazon_raw",
        "input": f"{gb[0]:.1f} GB of reviews, {gb[1]:.1f} GB of items, JSON lines of 2023",
        "peer": "none",
        "quality": f"the sequences drawn: {len(rows):,} of {len(drawn[0]):,} reviews after 5-core "
        f"and complete fields; peak memory {peak / 1e6:.0f} MB, {before / 1e6:.0f} of them before; "
        f"{each:.0f} bytes a review",
        "peer s": "",
        "our s": f"{wall:.3g} (CPU {cpu:.3g})",
        "ratio": f"{1000 * sum(gb) / wall:.0f} MB/s (CPU {1000 * sum(gb) / cpu:.0f} MB/s)",
        "target": f"within {LIMIT / 2**30:g} GB",
        "met": peak < LIMIT,
        "raw": {"bytes": gb, "wall": wall, "cpu": cpu, "before": before, "peak": peak},
    })  # fmt: skip


def by_pandas(path):
    """Read in chunks of which only five columns stay."""
    chunks = pd.read_json(path, lines=True, chunksize=20_000, dtype=False)
    frame = pd.concat([chunk[COLUMNS] for chunk in chunks])
    frame = core(frame.rename(columns={"user_id": "user", "parent_asin": "item"}))
    return frame.sort_values(["user", "timestamp"], kind="stable")[["user", "item"]]


def by_duckdb(path):
    """Read and filter in its engine, on as many threads as we have."""
    base = duckdb.connect()
    base.execute(f"set threads = {os.environ['OMP_NUM_THREADS']}")
    kinds = dict(zip(COLUMNS, ("VARCHAR", "VARCHAR", "DOUBLE", "BIGINT", "VARCHAR")))
    base.execute(
        "create table r as select user_id u, parent_asin i, rating, timestamp t, title, "
        f"row_number() over () n from read_json('{path}', format='newline_delimited', "
        f"columns={kinds})"
    )
    left, now = None, -1
    while left != now:
        left = now
        base.execute(
            "create or replace table r as select * from r where "
            "u in (select u from r group by u having count(*) >= 5) and "
            "i in (select i from r group by i having count(*) >= 5)"
        )
        (now,) = base.execute("select count(*) from r").fetchone()
    return base.execute('select u "user", i item from r order by u, t, n').fetch_df()


def slice_gate(rounds):
    for _, data, frame in rounds:
        require(np.array_equal(data.user_ids[data.user], frame["user"]), "other users")
        require(np.array_equal(data.item_ids[data.item], frame["item"]), "other sequences")
    return f"the same {len(data.user):,} interactions; ours also joins headlines"


@pytest.mark.parametrize("peer", ["pandas", "duckdb"])
def test_amazon_raw_slice(peer, benchmark, folder):
    draw_reviews(folder / "r.jsonl", SLICE)
    measure(
        Job(
            name=f"amazon_raw_{peer}",
            input=f"{SLICE / 1e6:.0f} MB of reviews of 2023, JSON lines",
            peer=peer,
            target=1 if peer == "pandas" else None,
            setup=lambda r: (folder / "r.jsonl",),
            ours=read_amazon,
            theirs={"pandas": by_pandas, "duckdb": by_duckdb}[peer],
            gate=slice_gate,
        ),
        benchmark,
    )
