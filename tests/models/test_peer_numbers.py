"""`Blip2Retrieval` and `Blip2VQA` against numbers of mmpretrain and LAVIS (tests/data/peer_numbers/README.md)."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from blip2.registry import MODELS
from blip2.structures import DataSample

FOLDER = Path(__file__).parents[1] / "data/peer_numbers"
SPEC = importlib.util.spec_from_file_location("peer_recipe", FOLDER / "recipe.py")
recipe = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(recipe)
RETRIEVAL = json.loads((FOLDER / "retrieval.json").read_text(encoding="utf-8"))["seeds"]
VQA = json.loads((FOLDER / "vqa.json").read_text(encoding="utf-8"))["seeds"]
WITH_IDS = pytest.mark.parametrize("form", ["", "_with_ids"], ids=["without image ids", "with image ids"])


def close(found, expected):
    assert_close(torch.as_tensor(found), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return recipe.bert_tokenizer(tmp_path_factory.mktemp("bert"))


@pytest.fixture(params=RETRIEVAL, ids=lambda seed: f"seed {seed}")
def retrieval(request, bert):
    """A model with the weights of a seed, and the peers' numbers for it."""
    model = recipe.our_retrieval(MODELS, bert).eval()
    recipe.fill(model, int(request.param))
    return model, RETRIEVAL[request.param]


@WITH_IDS
def test_losses_and_gradients_are_those_of_the_peers(retrieval, monkeypatch, form):
    model, expected = retrieval
    monkeypatch.setattr(torch, "multinomial", recipe.argmax_multinomial)
    samples = recipe.pairs(DataSample, range(5), with_ids=bool(form))
    losses = model(recipe.images(5), samples, mode="loss")
    assert sorted(losses) == sorted(expected["losses" + form])
    for name, value in expected["losses" + form].items():
        close(losses[name].detach(), value)
    sum(losses.values()).backward()
    gradients = {name: value.grad.norm() for name, value in model.named_parameters() if value.grad is not None}
    for name, value in expected["gradient_norms" + form].items():
        assert_close(gradients[name], torch.tensor(value), atol=1e-5, rtol=2e-5)


@torch.no_grad()
def test_scores_of_similarity_and_matching_are_those_of_the_peers(retrieval):
    model, expected = retrieval
    pictures, texts = model.image_features(recipe.images(4)), model.text_features(recipe.gallery())
    close(model.itc_scores(pictures["image_feat"], texts["text_feat"]), expected["itc"])
    for embeds, row in zip(pictures["image_embeds"], expected["itm"], strict=True):
        close(model.itm_scores(embeds[None], texts["input_ids"], texts["attention_mask"]), row)
    means = model.multimodal_features(recipe.images(4)[:2], [recipe.TEXTS[0], recipe.TEXTS[2]]).mean(-1)
    close(means, expected["multimodal"])


@torch.no_grad()
def test_the_likeliest_are_ranked_again_as_by_the_peers_both_ways(retrieval):
    model, expected = retrieval
    features = model.image_features(recipe.images(4)), model.text_features(recipe.gallery())
    for found, direction in zip(model.predict_all(*features), ("i2t", "t2i"), strict=True):
        scores = torch.tensor(expected[direction])
        ranked = scores > -100
        close(found[ranked], scores[ranked].tolist())
        # The others, which the peers leave at -100 in no order, are behind in that of their similarity.
        assert found[~ranked].max() < scores[ranked].min() - 50
    similarity = torch.tensor(expected["itc"])
    model.fast_match = True
    i2t, t2i = model.predict_all(*features)
    close(i2t, expected["itc"])
    close(t2i, similarity.T.tolist())


TWO_PROCESSES = """
import json, sys
import torch, torch.distributed as dist
dist.init_process_group("gloo")
sys.path.insert(0, sys.argv[1])
import recipe
from pathlib import Path
from blip2.registry import MODELS
from blip2.structures import DataSample
rank = dist.get_rank()
torch.multinomial = recipe.argmax_multinomial
model = recipe.our_retrieval(MODELS, Path(sys.argv[2])).eval()
own = range(3 * rank, 3 * rank + 3)
found = {}
for seed in sys.argv[4:]:
    recipe.fill(model, int(seed))
    found[seed] = {}
    for form in "", "_with_ids":
        model.zero_grad()
        samples = recipe.pairs(DataSample, own, with_ids=bool(form))
        losses = model(recipe.images(6)[3 * rank : 3 * rank + 3], samples, mode="loss")
        sum(losses.values()).backward()
        norms = {}
        for name in sys.argv[3].split():
            gradient = model.get_parameter(name).grad
            dist.all_reduce(gradient)
            norms[name] = float(gradient.norm() / 2)
        found[seed]["losses" + form] = {name: float(value.detach()) for name, value in losses.items()}
        found[seed]["gradient_norms" + form] = norms
print(json.dumps(found))
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_have_the_losses_and_gradients_of_lavis(bert):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    parameters = " ".join(RETRIEVAL["0"]["gradient_norms"])
    processes = []
    for rank in range(2):
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": "2"}
        command = [sys.executable, "-c", TWO_PROCESSES, str(FOLDER), str(bert), parameters, *RETRIEVAL]
        environment = {**os.environ, **rendezvous, "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    for rank, process in enumerate(processes):
        output, errors = process.communicate(timeout=240)
        assert output, errors
        for seed, found in json.loads(output.splitlines()[-1]).items():
            expected = RETRIEVAL[seed]["two_processes"]
            for form in "", "_with_ids":
                for name, value in expected["losses" + form][rank].items():
                    close(found["losses" + form][name], value)
                for name, value in expected["gradient_norms" + form].items():
                    assert found["gradient_norms" + form][name] == pytest.approx(value, rel=2e-5), name


@pytest.fixture(scope="module")
def vqa(tmp_path_factory, bert):
    opt = recipe.opt_tokenizer(tmp_path_factory.mktemp("opt"))
    language_model = dict(type="OPTForCausalLM", vocab_size=recipe.opt_vocab_size(), **recipe.OPT)
    return MODELS.build(recipe.vqa_config(bert, language_model, opt)).eval()


@pytest.mark.parametrize("seed", VQA)
def test_answers_and_their_likelihoods_are_those_of_mmpretrain(vqa, monkeypatch, seed):
    written = []
    decode = type(vqa).decode
    monkeypatch.setattr(type(vqa), "decode", lambda *args: (written.append(args[1]), decode(*args))[1])
    recipe.fill(vqa, int(seed))
    samples = [DataSample(question=question) for question in recipe.QUESTIONS]
    # The peers' own min_length=1 counts a token that is no answer, and so allows empty answers.
    vqa.predict(recipe.images(4), samples, min_length=0)
    ids = [row[:length] for row, length in zip(written[0].sequences.tolist(), written[0].lengths.tolist(), strict=True)]
    assert ids == VQA[seed]["ids"]
    close([sample.pred_score for sample in samples], VQA[seed]["scores"])
