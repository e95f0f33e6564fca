"""Where tensors live."""

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


def use_threads(count: int) -> None:
    """How many CPU threads torch computes with, in the whole process from here on."""
    torch.set_num_threads(count)
