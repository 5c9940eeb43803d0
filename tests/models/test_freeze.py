"""`freeze`: no gradients, none left over, eval mode."""

import torch
from torch import nn

from blip2.models import freeze


def test_freezes_modules_and_parameters():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    token = nn.Parameter(torch.ones(2))
    net(token).sum().backward()
    assert net[0].weight.grad is not None
    freeze(net, token)
    for parameter in (*net.parameters(), token):
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert not net[1].training


def test_frozen_weights_survive_weight_decay_and_cost_no_optimizer_state():
    frozen, free = nn.Linear(2, 2), nn.Linear(2, 2)
    freeze(frozen)
    before = frozen.weight.clone()
    optimizer = torch.optim.AdamW([*frozen.parameters(), *free.parameters()], lr=0.1, weight_decay=0.5)
    free(frozen(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    assert torch.equal(frozen.weight, before)
    assert set(optimizer.state) == set(free.parameters())
