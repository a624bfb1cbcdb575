"""The examples of CONTRIBUTING run as they stand there, and do what their first lines say."""

import re
from pathlib import Path

import numpy as np
import pytest

from semid_lib.codes import SemanticIds
from semid_lib.data import leave_one_out, synthetic_catalogue
from semid_lib.errors import EmptyHistoryError, InputError, NotFittedError
from semid_lib.evaluation import evaluate

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
TITLE = "## Adding a quantizer or a recommender"


@pytest.fixture(scope="module")
def made():
    """What the examples define."""
    section = PAGE.read_text(encoding="utf-8").split(TITLE)[1].split("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 3 and all(len(text.splitlines()) <= 36 for text in examples)
    defined = {"__name__": "examples"}
    for text in examples:
        exec(text, defined)
    return defined


@pytest.fixture(scope="module")
def split():
    return leave_one_out(synthetic_catalogue(60, 50, random_state=0)[0])


def test_the_quantizer(made, tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 5))
    quantizer = made["SignCodes"](num_levels=6)
    with pytest.raises(NotFittedError):
        quantizer.transform(X)
    codes = quantizer.fit_transform(X)
    assert codes.shape == (40, 6) and codes.dtype == np.int64
    for row, level in ((0, 0), (7, 3), (39, 5)):
        side = np.dot(X[row] - X.mean(axis=0), quantizer.normals_[:, level])
        assert codes[row, level] == (side > 0)
    again = made["SignCodes"].load(quantizer.save(tmp_path / "q"))
    assert (again.codes_ == codes).all() and (again.transform(X[::-1]) == codes[::-1]).all()
    with pytest.raises(InputError, match="planes is 'odd'"):
        made["SignCodes"](planes="odd").fit(X)
    with pytest.raises(InputError, match="row 3 of X"):
        X[3, 1] = np.nan
        quantizer.fit(X)


def test_the_recommender_that_scores(made, split, tmp_path):
    codes = np.random.default_rng(1).integers(3, size=(60, 3))
    model = made["SamePrefix"]().fit(split, SemanticIds(codes))
    counts = split.train_counts()

    def shared(a, b):
        return next((n for n in range(3) if codes[a, n] != codes[b, n]), 3)

    best = sorted(range(60), key=lambda j: (-shared(7, j), -counts[j]))
    found = model.recommend([[1, 7]], 5)[0]
    keys = [[(shared(7, j), counts[j]) for j in items[:5]] for items in (found, best)]
    assert keys[0] == keys[1]
    again = made["SamePrefix"].load(model.save(tmp_path / "r"))
    assert (again.recommend([[1, 7]], 5) == found).all()
    assert evaluate(model, split, "test", progress=False).cut is None
    with pytest.raises(InputError, match="needs semantic IDs"):
        made["SamePrefix"]().fit(split)
    with pytest.raises(EmptyHistoryError):
        model.recommend([[]], 5)


def test_the_recommender_that_writes(made, split, tmp_path):
    model = made["Latest"](num_beams=10).fit(split)
    assert model.recommend([[4, 9, 4]], 3).tolist() == [[4, 9, -1]]
    assert model.recommend([[4, 9, 4]], 3, exclude_history=True).tolist() == [[-1] * 3]
    result = evaluate(model, split, "test", ks=(10,), progress=False)
    again = made["Latest"].load(model.save(tmp_path / "l"))
    assert result.cut == 10 and again.num_items_ == 60
    histories, targets = split.histories("test"), split.targets["test"]
    hits = [t in list(dict.fromkeys(h[::-1].tolist()))[:10] for h, t in zip(histories, targets)]
    assert result.metrics()["recall@10"] == pytest.approx(np.mean(hits))
    with pytest.raises(TypeError, match="does not score"):
        model.score_items([[1]])
