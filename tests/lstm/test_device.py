import pytest
import torch

from app.errors import InvalidRequest
from app.lstm.device import choose_device


def test_auto_takes_what_there_is():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(InvalidRequest):
        choose_device("cuda")


def test_an_unknown_device_is_refused():
    with pytest.raises(InvalidRequest):
        choose_device("tpu")
