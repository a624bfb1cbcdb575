"""The figures' one style: a method keeps its colour, marker and dash in the whole book."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from semid_lib.errors import InputError

_FILE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY = _FILE["colours"].values()
SEQUENTIAL = _FILE["style"]["image.cmap"]
WIDTH = 6.2
METHOD_STYLE: dict[str, dict[str, str]] = {
    name: {"color": _FILE["colours"][colour], "marker": marker, "linestyle": dash}
    for name, (colour, marker, dash) in _FILE["methods"].items()
}
_PLACES = re.compile(r'( (?:d|x|y|width|height|viewBox)="|translate\()([^")]*)')
_NUMBER = re.compile(r"-?\d+\.\d+|-0\b")
_HASHED = re.compile(r' id="(\w*[0-9a-f]{10})"')  # matplotlib hashes all digits of what it names


def use_style() -> None:
    """Set the book's figure style; in a notebook also SVG output that is the same in every run."""
    cycle = mpl.cycler(color=[BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK])
    mpl.rcParams.update({**_FILE["style"], "axes.prop_cycle": cycle})
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        import matplotlib.pyplot  # noqa: F401 - the backend must be active, or it undoes this
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")
        formatters = shell.display_formatter.formatters
        formatters["image/svg+xml"].for_type(Figure, _svg)


def _svg(figure: Figure) -> str:
    from IPython.core.pylabtools import print_figure

    return steady(print_figure(figure, "svg", metadata={"Date": None, "Creator": None}))


def steady(svg: str) -> str:
    """The figure with its coordinates rounded to a hundredth of a point, and named anew.

    Sums of coordinates differ in their last digits between processors, and matplotlib writes six
    decimals and names clip paths and markers by a hash of all digits. Numbers that lie halfway
    between two hundredths, as sizes of a layout do, are moved aside first.
    """

    def rounded(match) -> str:
        number = round(float(match[0]) + 1.7e-4, 2) + 0.0  # no -0
        return f"{number:.2f}".rstrip("0").rstrip(".")

    def place(match) -> str:
        return match[1] + _NUMBER.sub(rounded, match[2])

    svg = _PLACES.sub(place, svg)
    names = list(dict.fromkeys(_HASHED.findall(svg)))
    for number, name in enumerate(names):
        svg = re.sub(rf"\b{name}\b", f"part-{number}", svg)
    of_figure = hashlib.sha256(svg.encode()).hexdigest()[:8]  # a page may hold several figures
    return re.sub(r"\bpart-(\d+)\b", rf"part-\1-{of_figure}", svg)


def method_style(name: str) -> dict[str, str]:
    """Return colour, marker and dash of a method of `METHOD_STYLE`, as keywords of `Axes.plot`."""
    if name not in METHOD_STYLE:
        raise InputError(f"method {name!r} has no style; known are {', '.join(METHOD_STYLE)}")
    return METHOD_STYLE[name].copy()


def figure(width: float = WIDTH, height: float = 3.0, **kwargs) -> tuple[Figure, Axes]:
    """Open a figure of the book's width (inches); keywords go to `pyplot.subplots`."""
    import matplotlib.pyplot as plt

    use_style()
    return plt.subplots(figsize=(width, height), **kwargs)


def bars_with_intervals(
    names: Sequence[str], values: Sequence[float], intervals: Sequence[tuple[float, float]],
    label: str,
) -> Axes:  # fmt: skip
    """Draw one horizontal bar per method, from zero, first on top, with its interval and value.

    Args:
        names: methods of `METHOD_STYLE`; others are drawn grey.
        values: bar lengths, in the order of `names`.
        intervals: `(low, high)` of each bar, such as a 95 % bootstrap interval.
        label: of the value axis, with its unit, such as "NDCG@10".

    Raises:
        InputError: names, values and intervals of different number, or a value outside its
            interval.
    """
    if not len(names) == len(values) == len(intervals):
        counts = f"{len(names)} names, {len(values)} values and {len(intervals)} intervals"
        raise InputError(f"{counts} do not match")
    for name, value, (low, high) in zip(names, values, intervals):
        if not low <= value <= high:
            raise InputError(f"{name}: {value} lies outside its interval {low}..{high}")
    _, ax = figure(height=0.7 + 0.3 * len(names))
    rows = range(len(names))
    colours = [METHOD_STYLE.get(name, {"color": GREY})["color"] for name in names]
    reach = [(v - low, high - v) for v, (low, high) in zip(values, intervals)]
    ax.barh(rows, values, xerr=list(zip(*reach)), color=colours, height=0.65, ecolor="#444444")
    for row, value, (_, high) in zip(rows, values, intervals):
        text = f"{value:.3f}"
        ax.annotate(text, (high, row), (4, 0), textcoords="offset points", va="center")
    ax.set_yticks(rows, labels=names)
    ax.invert_yaxis()
    ax.grid(axis="x", visible=True)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 1.15 * max(high for _, high in intervals) or 1)
    ax.set_xlabel(label)
    return ax


def flow_diagram(
    rows: Mapping[str, Sequence[tuple[str, str]]], colours: Sequence[str], *, height: float = 1.3
) -> Figure:
    """Draw rows of boxes joined by arrows, each row under its heading.

    Args:
        rows: heading -> `(title, detail)` of each box, left to right; a detail may have several
            lines of about 16 characters where a row has five boxes.
        colours: one per row.
        height: inches of a row.
    """
    fig, ax = figure(height=height * len(rows))
    ax.set(xlim=(-0.005, 1.005), ylim=(0, len(rows)))
    ax.set_axis_off()
    gap = 0.04
    for row, ((heading, boxes), colour) in enumerate(zip(rows.items(), colours)):
        top = len(rows) - row
        ax.text(0, top, heading, weight="bold", va="top", fontsize=10)
        width = (1 - gap * (len(boxes) - 1)) / len(boxes)
        low, high = top - 0.93, top - 0.19
        for column, (title, detail) in enumerate(boxes):
            left = column * (width + gap)
            shape = Rectangle((left, low), width, high - low, facecolor=colour + "1A")
            shape.set(edgecolor=colour, linewidth=1.2)
            ax.add_patch(shape)
            middle = left + width / 2
            ax.text(middle, high - 0.07, title, ha="center", va="top", weight="bold", fontsize=8.5)
            ax.text(middle, low + 0.29, detail, ha="center", va="center", fontsize=8)
            if column:
                place = (low + high) / 2
                ends = dict(xy=(left, place), xytext=(left - gap, place))
                ax.annotate("", **ends, arrowprops={"arrowstyle": "-|>", "color": "#333333"})
    return fig


def map_to_plane(vectors, method: str = "tsne", random_state: int = 0) -> np.ndarray:
    """Lay vectors out in the plane so that near ones, by cosine, stay near.

    What it keeps are neighbourhoods; distances between groups, their sizes and their density mean
    little. Print `diagnostics.neighbour_purity` of the vectors themselves beside the picture.

    Args:
        vectors: `[N, D]`, at least 50 of them, none zero.
        method: "tsne" (van der Maaten and Hinton 2008; perplexity 30, PCA start, 500 iterations) or
            "umap" (McInnes et al. 2018; 15 neighbours, exact; needs the package umap-learn).

    Returns:
        `[N, 2]` float32. The same on one machine; on another the picture may be turned or moved.

    Raises:
        InputError: fewer vectors, one that is zero or not finite, another method, no umap-learn.

    Cost: 1,682 vectors take 2 s (t-SNE) or 1 s (UMAP, after compiling for about 5 s).
    """
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    from semid_lib.diagnostics._inputs import as_matrix

    X = as_matrix(vectors)
    length = np.linalg.norm(X, axis=1, keepdims=True)
    if len(X) < 50 or not (length > 0).all():
        raise InputError(
            f"{len(X)} vectors, {int((length == 0).sum())} of them zero: a map needs at least 50, "
            "and a zero vector has no direction"
        )
    X = (X / length).astype(np.float32)
    if method == "tsne":
        from sklearn.manifold import TSNE

        return TSNE(init="pca", max_iter=500, random_state=random_state).fit_transform(X)
    if method != "umap":
        raise InputError(f"method is {method!r}, but must be 'tsne' or 'umap'")
    try:
        from umap import UMAP
    except ImportError:
        raise InputError("UMAP needs a package of its own: pip install umap-learn") from None
    near = NearestNeighbors(n_neighbors=16, metric="cosine").fit(X)
    distance, index = near.kneighbors(X)
    known = index[:, :15], distance[:, :15].astype(np.float32)
    layout = UMAP(15, metric="cosine", precomputed_knn=known, random_state=random_state, n_jobs=1)
    # It warns that it cannot place new points, which nobody asks.
    with _threads_kept(), threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return layout.fit_transform(X)


@contextmanager
def _threads_kept():
    """Leave torch with as many threads as it has; UMAP may set them to the number of cores."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
