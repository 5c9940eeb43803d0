"""Stage 1 and ranking in two processes (gloo), whose shares are uneven, against the same in one."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from blip2.models.contrastive import contrastive_loss, same_item
from blip2.structures import DataSample

# Rank 0 has two texts of one picture's id and rank 1 the longest text, so negatives can only come from elsewhere.
TEXTS = ["a red boat", "two birds", "three children fly a kite above the hill"]
IDS = ["a", "a", "b"]
WORKER = """
import sys
import torch, torch.distributed as dist
from pathlib import Path
from blip2.models.contrastive import gather_rows
from blip2.registry import MODELS
from blip2.structures import DataSample
folder = Path(sys.argv[1])
given = torch.load(folder / "given.pt", weights_only=False)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.multinomial = lambda weights, _: weights.argmax(1, keepdim=True)
model = MODELS.build(given["config"]).eval()
model.load_state_dict(given["weights"])
own = slice(0, 2) if rank == 0 else slice(2, 3)
samples = [DataSample(text=t, image_id=i) for t, i in zip(given["texts"][own], given["ids"][own])]
losses = model.loss(given["images"][own], samples)
found = {name: value.detach() for name, value in losses.items()}
x = (torch.arange(6.0) + 10 * rank).view(2, 3)[: 2 - rank, : 3 - rank].requires_grad_()
gathered = gather_rows(x, with_gradient=True)
(gathered * torch.arange(9.0).view(3, 3)).sum().backward()
found |= {"gathered": gathered.detach(), "gradient": x.grad}
i2t, t2i = model.predict_all(*given["features"])
found |= {"i2t": i2t, "t2i": t2i}
torch.save(found, folder / f"found{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture
def model(retrieval_model, liven):
    model = retrieval_model(topk=2).eval()
    liven(model, 0)
    return model


@pytest.fixture
def found(model, retrieval_config, tmp_path):
    """What each of two processes makes of its share."""
    images = torch.randn(3, 3, 28, 28)
    with torch.no_grad():
        features = model.image_features(images), model.text_features(TEXTS)
    given = {"config": retrieval_config(topk=2), "weights": model.state_dict(), "features": features}
    torch.save({**given, "images": images, "texts": TEXTS, "ids": IDS}, tmp_path / "given.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": "2"}
        command = [sys.executable, "-c", WORKER, str(tmp_path)]
        processes.append(subprocess.Popen(command, env={**os.environ, **places}, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return images, features, [torch.load(tmp_path / f"found{rank}.pt", weights_only=False) for rank in range(2)]


def test_two_processes_with_uneven_shares_do_the_work_of_one(model, found):
    images, features, (first, second) = found
    with torch.no_grad():
        contrast(model, features, first, second)
        matching(model, features, first, second)
        for part, share in ((first, slice(0, 2)), (second, slice(2, 3))):
            samples = [DataSample(text=text) for text in TEXTS[share]]
            assert_close(part["lm_loss"], model.loss(images[share], samples)["lm_loss"], atol=1e-5, rtol=1e-5)
        expected = model.predict_all(*features)
    for part in (first, second):
        assert torch.equal(part["i2t"], expected[0]) and torch.equal(part["t2i"], expected[1])
    gathering(first, second)


def contrast(model, features, first, second):
    logits = model.itc_scores(features[0]["image_feat"], features[1]["text_feat"]) / 0.07
    same = same_item(IDS)
    for part, share in ((first, slice(0, 2)), (second, slice(2, 3))):
        expected = (contrastive_loss(logits[share], same[share]) + contrastive_loss(logits.T[share], same[share])) / 2
        assert_close(part["itc_loss"], expected, atol=1e-5, rtol=1e-5)


def matching(model, features, first, second):
    """Rank 0's negatives are rank 1's only pair; rank 1's are the more similar of rank 0's two."""

    def logits(picture, text):
        ids, mask, _ = model.tokenize([TEXTS[text]])
        return model.itm_logits(features[0]["image_embeds"][picture : picture + 1], ids, mask)

    scores = model.itc_scores(features[0]["image_feat"], features[1]["text_feat"])
    hard_picture, hard_text = int(scores[:2, 2].argmax()), int(scores[2, :2].argmax())
    of_first = [(0, 0), (1, 1), (2, 0), (2, 1), (0, 2), (1, 2)]
    of_second = [(2, 2), (hard_picture, 2), (2, hard_text)]
    for part, pairs, matched in ((first, of_first, [1, 1, 0, 0, 0, 0]), (second, of_second, [1, 0, 0])):
        expected = F.cross_entropy(torch.cat([logits(*pair) for pair in pairs]), torch.tensor(matched))
        assert_close(part["itm_loss"], expected, atol=1e-5, rtol=1e-5)


def gathering(first, second):
    """Shares of 2×3 and 1×2; each process weights all of it, and the gradients of both come back."""
    for part in (first, second):
        assert part["gathered"].tolist() == [[0, 1, 2], [3, 4, 5], [10, 11, 0]]
    assert first["gradient"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert second["gradient"].tolist() == [[12, 14]]
