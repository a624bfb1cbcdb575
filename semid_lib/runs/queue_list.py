"""The runs that the book's tables wait for, most informative first, and how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Runs of every seed, dataset, system and variant that it names, the last varying fastest.

    Attributes:
        systems: names, "floors" for all floors, "tokenizers" for R3-VAE's seven.
        datasets: names.
        variants: names; a pattern with * stands for those of the system's that match.
        sweeps: names of sweeps, whose points follow the `variants`; without either, "default".
        seeds, profile: of all of them.
        minutes: of a run; None: as the tables below say.
    """

    systems: str
    datasets: str
    variants: str = ""
    sweeps: str = ""
    seeds: Sequence[int] = (0,)
    profile: str = "paper"
    minutes: float | None = None


RUNS = (
    # The floors cost seconds and stand in every table (baby has no order).
    Row(
        "floors",
        "beauty beauty-complete toys sports instruments office clothing lastfm ml-1m ml-100k",
        minutes=0.2,
    ),
    # ReSID's comparison at one budget: on Beauty's items with all fields, then on all of Beauty.
    # What the encoders' losses and the fields do, beside it.
    Row("e2 resid tiger q1 q2 e1 rkmeans r3vae random e3", "beauty-complete", variants="equal"),
    Row("r3vae", "beauty-complete", variants="top1"),
    Row("sasrec sasrec* hgn*", "beauty-complete"),
    Row("e2", "beauty-complete", variants="equal-id equal-cosine equal-sampled"),
    Row("resid", "beauty-complete", variants="equal-sampled equal-l2"),
    Row("e2 resid tiger q1 q2 e1 rkmeans r3vae random e3", "beauty", variants="equal"),
    Row("e2 resid tiger", "beauty-complete", variants="long"),
    Row("e2", "beauty", variants="equal-id"),
    # ACERec's Table 1 on Instruments; what its codes carry: of text, of behaviour, random ones, at
    # a quarter of the width and in full; R3-VAE's Table 2 on LastFM at the equal budget.
    Row("hgn sasrec gru4rec", "instruments"),
    Row("s3rec", "instruments", variants="published"),
    Row("tiger random", "instruments", variants="gap"),
    Row("rpg acerec", "instruments", variants="small small-als small-random default als random-64"),
    Row("acerec", "instruments", variants="small-atm*"),
    Row("tokenizers random", "lastfm", variants="equal"),
    # ReSID's comparison and its ablations with one seed.
    Row("tiger resid sasrec sasrec*", "beauty toys sports"),
    Row("e2 q2 e3 e1 q1 bert4rec bert4rec*", "beauty toys sports"),
    # The other yardsticks of ReSID's and ACERec's tables.
    Row("hgn gru4rec s3rec hgn* s3rec*", "beauty toys sports"),
    Row("sasrec hgn gru4rec", "office"),
    Row("s3rec", "office beauty toys sports", variants="published"),
    Row("sasrec", "beauty", variants="bce sampled"),
    Row("hgn", "beauty", variants="bpr"),
    # TIGER's printed numbers and what public implementations reach: its own settings, RecBole 3's,
    # and one thing at a time changed.
    Row("tiger", "beauty", variants="gap gap-* public published", minutes=40),
    # Fig. 3 and Table 8; the ablations without side fields; Fig. 4, smallest size first.
    Row("resid", "beauty", sweeps="checkpoint branching"),
    Row("e2 e3", "beauty", variants="id"),
    Row("resid", "beauty", variants="size-1", minutes=8),
    Row("tiger", "beauty", variants="size-1", minutes=8),
    Row("sasrec", "beauty", variants="size-1", minutes=3),
    Row("resid", "beauty", variants="size-2", minutes=12),
    Row("tiger", "beauty", variants="size-2", minutes=12),
    Row("sasrec", "beauty", variants="size-2", minutes=3),
    Row("resid", "beauty", variants="size-3", minutes=20),
    Row("tiger", "beauty", variants="size-3", minutes=20),
    Row("sasrec", "beauty", variants="size-3", minutes=5),
    Row("resid", "beauty", variants="size-4", minutes=45),
    Row("tiger", "beauty", variants="size-4", minutes=45),
    Row("sasrec", "beauty", variants="size-4", minutes=9),
    Row("resid", "beauty", variants="size-5", minutes=120),
    Row("tiger", "beauty", variants="size-5", minutes=120),
    Row("sasrec", "beauty", variants="size-5", minutes=25),
    # R3-VAE's Tables 1 and 6; the control of its vectors; Tables 8 and 9 and Fig. 4; Table 2; the
    # sweep.
    Row("tokenizers", "beauty"),
    Row("rkmeans", "beauty", variants="centred"),
    Row("r3vae", "beauty", variants="literal top1 no-* random-start mean-error", sweeps="lambda"),
    Row("mq", "beauty", variants="faithful published"),
    Row("rqvae", "beauty", variants="random-start restart"),
    Row("tokenizers", "sports toys lastfm ml-1m clothing"),
    Row("r3vae", "beauty", sweeps="temperature"),
    # ACERec's Table 3: row 1, row 6, those between; then Table 4.
    Row("acerec", "instruments", variants="atm*"),
    Row("acerec", "office", variants="atm0-intent0-isa0 default atm*"),
    Row("rpg", "office"),
    Row("acerec", "instruments office", variants="merger-* anchor-*"),
    # Tables 1 and 2, Fig. 12 (Toys).
    Row("rpg acerec", "beauty toys sports"),
    # Figs. 3, 4, 7, 8 and 10.
    Row("acerec", "instruments", sweeps="lambda digits"),
    Row("rpg", "instruments", sweeps="digits"),
    Row("acerec", "office", sweeps="lambda digits"),
    Row("rpg", "office", sweeps="digits"),
    # The other seeds.
    Row("hgn sasrec", "instruments", seeds=(1,)),
    Row("s3rec", "instruments", variants="published", seeds=(1,)),
    Row("tiger random", "instruments", variants="gap", seeds=(1,)),
    Row("rpg acerec", "instruments", variants="small small-als small-random", seeds=(1,)),
    Row("acerec", "instruments", variants="small-atm*", seeds=(1,)),
    Row("rpg", "instruments", seeds=(1,)),
    Row("e2 resid tiger", "beauty-complete", variants="equal", seeds=(1,)),
    Row("tiger resid sasrec sasrec*", "beauty toys sports", seeds=(1,)),
    Row("tokenizers", "beauty", seeds=(1,)),
    Row("acerec", "instruments", variants="atm0-intent0-isa0 default atm*", seeds=(1,)),
    Row("hgn sasrec", "instruments", seeds=(2,)),
    Row("s3rec", "instruments", variants="published", seeds=(2,)),
    Row("tiger random", "instruments", variants="gap", seeds=(2,)),
    Row("rpg acerec", "instruments", variants="small small-als small-random", seeds=(2,)),
    Row("acerec", "instruments", variants="small-atm*", seeds=(2,)),
    Row("rpg", "instruments", seeds=(2,)),
    Row("e2 resid tiger", "beauty-complete", variants="equal", seeds=(2,)),
    Row("tiger resid sasrec sasrec*", "beauty toys sports", seeds=(2,)),
    Row("tokenizers", "beauty", seeds=(2,)),
    Row("acerec", "instruments", variants="atm0-intent0-isa0 default atm*", seeds=(2,)),
    # The same systems at a size for CPUs, with five seeds.
    Row(
        "tiger resid q1 q2 e1 e2 e3 sasrec sasrec* bert4rec bert4rec* hgn hgn* gru4rec s3rec "
        "s3rec* tokenizers random rpg acerec",
        "ml-100k",
        variants="default id*",
        seeds=(0, 1, 2, 3, 4),
        profile="quick",
    ),
)

# Codes of learnt tokenizers with the whole budget of the preset (20,000 steps of 1,024), beside the
# shorter ones of `semid queue run --codes`: do the verdicts turn on the steps?
WHOLE_CODES = (Row("rqvae r3vae", "beauty", variants="whole", minutes=60),)

# Minutes of a run, roughly: of the paper profile on Beauty, on one data-centre GPU; of the quick
# one on MovieLens-100K, on one thread of a CPU.
MINUTES = {
    "tiger": {"paper": 15, "quick": 1.5},
    "resid": {"paper": 20, "quick": 1.5},
    "e1": {"paper": 15, "quick": 1.5},
    "q1": {"paper": 25, "quick": 1.5},
    "e2": {"paper": 22, "quick": 1.5},
    "e3": {"paper": 28, "quick": 1.5},
    "q2": {"paper": 18, "quick": 1.5},
    "sasrec": {"paper": 3, "quick": 0.5},
    "sasrec*": {"paper": 4, "quick": 0.5},
    "bert4rec": {"paper": 8, "quick": 0.5},
    "bert4rec*": {"paper": 9, "quick": 0.5},
    "hgn": {"paper": 4, "quick": 0.5},
    "hgn*": {"paper": 5, "quick": 0.5},
    "gru4rec": {"paper": 4, "quick": 0.5},
    "s3rec": {"paper": 20, "quick": 1.0},
    "s3rec*": {"paper": 25, "quick": 1.0},
    "tokenizers": {"paper": 20, "quick": 1.5},
    "random": {"paper": 15, "quick": 1.5},
    "rpg": {"paper": 20, "quick": 1.0},
    "acerec": {"paper": 60, "quick": 1.5},
}

# How many times Beauty's minutes another dataset takes, where they are not about the same.
LONGER = {
    "sports": 1.5,
    "beauty-complete": 0.3,
    "lastfm": 0.4,
    "office": 0.25,
    "instruments": 0.067,
}
