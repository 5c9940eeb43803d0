"""`LinearClsHead` as BLIP-2 uses it: a projection."""

import pytest
import torch
from torch.testing import assert_close

from blip2.models import LinearClsHead
from blip2.registry import MODELS


def test_projects_a_tensor_or_the_last_of_several():
    head = MODELS.build({"type": "LinearClsHead", "in_channels": 4, "num_classes": 6})
    assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == {
        "fc.weight": (6, 4),
        "fc.bias": (6,),
    }
    x = torch.randn(2, 3, 4)
    expected = x @ head.fc.weight.T + head.fc.bias
    assert_close(head(x), expected)
    assert_close(head((torch.zeros(1), x)), expected)


def test_init_cfg_is_applied():
    head = LinearClsHead(400, 300)
    head.init_weights()
    assert abs(head.fc.weight.std().item() - 0.01) < 1e-3
    head = LinearClsHead(2, 3, init_cfg={"type": "Constant", "layer": "Linear", "val": 2.0})
    head.init_weights()
    assert (head.fc.weight == 2).all()


@pytest.mark.parametrize("name", ["num_classes", "in_channels"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, not 0"):
        LinearClsHead(**{"num_classes": 2, "in_channels": 3, name: 0})


def test_classification_arguments_are_refused_by_name():
    with pytest.raises(TypeError, match="topk"):
        LinearClsHead(2, 3, topk=(1, 5))
