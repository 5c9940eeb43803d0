"""How the texts of a retrieval model are grouped for computing."""

from itertools import pairwise

import torch

from blip2.models.retrieval_texts import length_groups


def test_length_groups_have_all_texts_once_and_little_padding():
    lengths = torch.randint(4, 30, (500,), generator=torch.Generator().manual_seed(0))
    groups = length_groups(torch.arange(30) < lengths[:, None], least=20)
    assert torch.cat(groups).sort().values.tolist() == list(range(500))
    ends = [(int(lengths[rows].min()), int(lengths[rows].max())) for rows in groups]
    assert all(low[1] <= high[0] for low, high in pairwise(ends))
    assert min(map(len, groups)) >= 20 and len(groups) > 5
    padded = sum(len(rows) * high for rows, (_, high) in zip(groups, ends, strict=True))
    assert padded < 1.2 * int(lengths.sum()) < 500 * 29
    assert [len(rows) for rows in length_groups(torch.ones(7, 3))] == [7]
