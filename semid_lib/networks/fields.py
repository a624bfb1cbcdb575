"""Items as the sum of what their fields say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid_lib.data.interactions import Interactions
from semid_lib.errors import InputError
from semid_lib.networks.transformer import INITIAL_STD


def item_fields(
    data: Interactions, names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray]:
    """Collect the fields of the items, the item id first.

    Args:
        names: fields of `data` to use, in order; None for all of them, () for the id alone.

    Returns:
        `(names, sizes, codes)`: J names ("item" first), J vocabulary sizes |V_k|, and the codes
        `[N, J]` int64, 0..|V_k|-1 or -1 where the item lacks the field.

    Raises:
        InputError: a name that `data` lacks, or a field that no item has.
    """
    names = tuple(data.fields) if names is None else tuple(names)
    sizes, columns = [data.num_items], [np.arange(data.num_items)]
    for name in names:
        if name not in data.fields:
            raise InputError(f"no item field {name!r} in {data.name!r}; it has {list(data.fields)}")
        column = np.asarray(data.fields[name], dtype=np.int64)
        if column.max(initial=-1) < 0:
            raise InputError(
                f"field {name!r} is missing for every item: leave it out of the fields"
            )
        sizes.append(max(int(column.max()) + 1, len(data.field_values.get(name, ()))))
        columns.append(column)
    return ("item", *names), tuple(sizes), np.stack(columns, axis=1)


class FieldTable(nn.Module):
    """The embedding tables of all item fields as one matrix.

    The rows of field k are its |V_k| values, then one for "missing", then one for "masked",
    so a masked or missing field is only another row number, and a token (the sum over the
    fields) is one `embedding_bag`.

    Args:
        sizes: |V_k| of the J fields. codes: `[N, J]` int64, -1 where missing. dim: width D.

    Attributes:
        weight: `[sum(|V_k| + 2), D]`. tokens: `[N, J]` int64, the row of each item's fields.
        absent: `[N, J]` bool, where the field is missing.
    """

    def __init__(self, sizes: Sequence[int], codes: np.ndarray, dim: int):
        super().__init__()
        self.sizes = tuple(sizes)
        offsets = np.concatenate([[0], np.cumsum(np.asarray(sizes) + 2)])
        self.weight = nn.Parameter(torch.empty(int(offsets[-1]), dim).normal_(std=INITIAL_STD))
        arrays = {
            "tokens": np.where(codes < 0, np.asarray(sizes), codes) + offsets[:-1],
            "codes": codes,
            "absent": codes < 0,
            "masked": offsets[:-1] + sizes + 1,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.as_tensor(array), persistent=False)

    def values(self) -> list[Tensor]:
        """The value rows of each field, J tensors `[|V_k|, D]` (missing and masked left out)."""
        counts = [n for size in self.sizes for n in (size, 2)]
        return list(torch.split(self.weight, counts)[::2])

    def forward(self, tokens: Tensor) -> Tensor:
        """Sum the rows of `tokens` `[..., J]` over the fields: `[..., D]`."""
        if tokens.shape[-1] == 1:
            return F.embedding(tokens[..., 0], self.weight)
        summed = F.embedding_bag(tokens.reshape(-1, tokens.shape[-1]), self.weight, mode="sum")
        return summed.view(*tokens.shape[:-1], -1)
