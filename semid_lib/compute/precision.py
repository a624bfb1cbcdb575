"""Number formats to train in: dtype of the weights, and of autocast."""

from __future__ import annotations

import torch

PRECISIONS = {
    "float32": (torch.float32, None),
    "float64": (torch.float64, None),
    "bfloat16": (torch.float32, torch.bfloat16),
    "float16": (torch.float32, torch.float16),
}
