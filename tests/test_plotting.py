"""The figure style."""

import io
import re

import matplotlib as mpl
import numpy as np
import pytest
import torch

from semid_lib.errors import InputError
from semid_lib.reports import plotting

mpl.use("Agg")


@pytest.fixture(autouse=True)
def restored():
    import matplotlib.pyplot as plt

    with mpl.rc_context():
        yield
    plt.close("all")


def test_no_two_methods_look_alike():
    looks = [tuple(style.values()) for style in plotting.METHOD_STYLE.values()]
    assert len(set(looks)) == len(looks)
    # Without colour, marker and dash must still tell apart the methods of one paper's comparison.
    resid = "HGN SASRec BERT4Rec S3-Rec HGN* SASRec* BERT4Rec* S3-Rec* TIGER LETTER EAGER UNGER"
    acerec = "HGN SASRec S3-Rec ICLRec ELCRec TIGER ETEGRec ActionPiece RPG ACERec"
    r3vae = "VQ-VAE RQ-VAE KMeans OPQ-KMeans R-KMeans MQ R3-VAE"
    floors = ["Popularity", "Markov chain", "Item-kNN"]
    for names in (resid + " ETEGRec ReSID", acerec, r3vae):
        styles = [plotting.method_style(name) for name in names.split() + floors]
        looks = [(style["marker"], style["linestyle"]) for style in styles]
        assert len(set(looks)) == len(looks), names


def test_every_system_has_a_style():
    from semid_lib.systems import SYSTEMS

    assert {system.title for system in SYSTEMS.values()} <= set(plotting.METHOD_STYLE)


def test_style_is_a_copy_and_unknown_methods_are_named():
    plotting.method_style("ReSID")["color"] = "red"
    assert plotting.METHOD_STYLE["ReSID"]["color"] == "#D55E00"
    with pytest.raises(InputError, match="'Resid' has no style.*ReSID"):
        plotting.method_style("Resid")


def test_vector_figures_are_the_same_bytes():
    """As the notebooks write them."""

    def draw():
        fig, ax = plotting.figure()
        ax.plot([0, 1, 2], [0, 1, 4], **plotting.method_style("ReSID"), clip_on=True)
        fig.savefig(file := io.BytesIO(), format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    assert draw() == draw()


def drawn(move=0.0):
    """A figure of lines, markers, a mesh and text as SVG, its data moved a little."""
    rng = np.random.default_rng(0)
    fig, axes = plotting.figure(ncols=2)
    axes[0].plot(rng.normal(size=50) + move, **plotting.method_style("ReSID"))
    axes[1].scatter(*rng.normal(size=(2, 50)) * (1 + move), s=9)
    axes[1].set_title("a title", rotation=3)
    axes[1].imshow(rng.random((4, 4)), extent=(-1, 1, -1, 1))
    fig.savefig(file := io.BytesIO(), format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue().decode()


def test_last_digits_of_the_data_do_not_show_in_a_figure():
    first = drawn()
    assert first != drawn(1e-6)  # the markers' paths and the names that hash them
    assert plotting.steady(first) == plotting.steady(drawn(1e-9))
    assert plotting.steady(first) != plotting.steady(drawn(0.1))


def test_a_steady_figure_is_the_same_picture():
    from xml.etree import ElementTree

    before, after = (
        list(ElementTree.fromstring(x).iter()) for x in (drawn(), plotting.steady(drawn()))
    )
    links = "{http://www.w3.org/1999/xlink}href"
    assert [x.tag for x in before] == [x.tag for x in after]
    for old, new in zip(before, after):
        for name in ("d", "x", "y", "width", "height", "transform"):
            numbers = [re.findall(r"-?\d+(?:\.\d+)?", x.get(name, "")) for x in (old, new)]
            a, b = (np.array(n, dtype=float) for n in numbers)
            np.testing.assert_allclose(a, b, atol=0.0053)
            letters = [re.sub(r"[-\d.\s]", "", x.get(name, "")) for x in (old, new)]
            assert letters[0] == letters[1]
        if (old.get(links) or "#").startswith("data:"):
            assert old.get(links) == new.get(links)
    ids = [x.get("id") for x in after if x.get("id")]
    assert len(ids) == len(set(ids))
    used = {x.get(links)[1:] for x in after if (x.get(links) or "").startswith("#")}
    used |= set(re.findall(r"url\(#([^)]*)\)", plotting.steady(drawn())))
    assert used <= set(ids) and any(name.startswith("part-") for name in used)


def test_halves_and_zeros_are_rounded_the_same_from_both_sides():
    for text in ("M 12.905 -0", "M 12.90500000001 0", "M 12.90499999999 -0.0000001"):
        assert plotting.steady(f'<path d="{text}"/>') == '<path d="M 12.91 0"/>'


def test_bars_start_at_zero_and_show_value_and_interval():
    ax = plotting.bars_with_intervals(
        ["ReSID", "Popularity", "mine"],
        [0.2, 0.1, 0.05],
        [(0.15, 0.3), (0.08, 0.12), (0.05, 0.05)],
        label="NDCG@10",
    )
    assert [bar.get_x() for bar in ax.patches] == [0, 0, 0]
    assert [bar.get_width() for bar in ax.patches] == [0.2, 0.1, 0.05]
    assert mpl.colors.to_hex(ax.patches[0].get_facecolor()).upper() == "#D55E00"
    assert [text.get_text() for text in ax.texts] == ["0.200", "0.100", "0.050"]
    ends = [path.vertices[:, 0].tolist() for path in ax.collections[0].get_paths()]
    assert ends[0] == pytest.approx([0.15, 0.3])
    bottom, top = ax.get_ylim()
    assert bottom > top  # the first bar stands on top
    assert ax.get_xlim()[0] == 0 and ax.get_xlabel() == "NDCG@10"


def test_bars_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="2 names, 1 values"):
        plotting.bars_with_intervals(["a", "b"], [1.0], [(1.0, 1.0)], label="x")
    with pytest.raises(InputError, match="a: 1.0 lies outside its interval 2.0..3.0"):
        plotting.bars_with_intervals(["a"], [1.0], [(2.0, 3.0)], label="x")


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_a_map_keeps_groups_apart_and_is_the_same_again(method):
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 30)
    vectors = 10 * np.eye(8)[group] + rng.normal(size=(90, 8))
    vectors *= rng.uniform(1, 9, size=(90, 1))  # length does not matter
    torch.set_num_threads(1)
    places = plotting.map_to_plane(vectors, method)
    assert torch.get_num_threads() == 1
    means = np.stack([places[group == g].mean(axis=0) for g in range(3)])
    nearest = ((places[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == group).all()
    assert (plotting.map_to_plane(vectors, method) == places).all()


def test_a_map_refuses_what_it_cannot_draw(monkeypatch):
    good = np.eye(60)
    with pytest.raises(InputError, match="40 vectors, 0 of them zero"):
        plotting.map_to_plane(good[:40])
    with pytest.raises(InputError, match="60 vectors, 1 of them zero"):
        plotting.map_to_plane(np.diag([0.0] + [1.0] * 59))
    with pytest.raises(InputError, match="method is 'pca'"):
        plotting.map_to_plane(good, "pca")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        plotting.map_to_plane(good, "umap")
