"""Where tensors live."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from app.errors import InvalidRequest


def choose_device(asked: str) -> torch.device:
    """`auto` takes CUDA where there is one; raises InvalidRequest when CUDA was asked for and there is none."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked not in ("cpu", "cuda"):
        raise InvalidRequest(f"device must be 'auto', 'cpu' or 'cuda', found {asked!r}", field="device")
    if asked == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("device 'cuda' was asked for, and this worker has none", field="device")
    return torch.device(asked)


MOST_HALVINGS = 2


@dataclass(frozen=True)
class Place:
    """Where to learn, and how often batches were halved to fit there."""

    device: torch.device
    halvings: int = 0


OTHER_WORDS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_want_of_memory(error: RuntimeError) -> bool:
    """torch's own error, or what CUDA and its libraries say where other trainings on the GPU left nothing for them to begin with."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OTHER_WORDS)


def relieve(place: Place) -> tuple[Place, str]:
    """What to try after a GPU ran out of memory, and how to say so: other trainings may share it."""
    if place.halvings < MOST_HALVINGS:
        return Place(place.device, place.halvings + 1), "The GPU ran out of memory: the batches were halved."
    return Place(torch.device("cpu")), "The GPU ran out of memory with small batches, too: this was learned on the CPU."


def choose_precision(device: str) -> str:
    """What the network computes in. bfloat16 keeps float32's range, so nothing overflows; on a CPU of any age it may be slow."""
    return "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def lower_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in `precision`, weights, sums and losses in float32 (Micikevicius et al., 2018)."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))
