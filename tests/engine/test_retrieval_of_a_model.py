"""The retrieval loops with the real model, data set and metric, as a config brings them together."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from blip2.apis.config import load_config
from blip2.apis.runner import build_runner
from blip2.models.retrieval_scoring import similarity_matrix

WORDS = ["a red circle", "the blue square", "a star left of a ring", "two hearts", "a green cross above it", "one ring"]
PICTURES = 6


@pytest.fixture
def cfg(tmp_path):
    """The small retrieval model with two layers a part, over six pictures of noise with two texts each."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(PICTURES):
        pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": [WORDS[number], f"{WORDS[number]} and {WORDS[number - 1]}"]})
    (tmp_path / "gallery.json").write_text(json.dumps(rows))
    cfg = load_config("configs/blip2_tiny/blip2-tiny_shapes-retrieval.py")
    cfg.load_from, cfg.work_dir = None, str(tmp_path / "run")
    cfg.model.vision_backbone.arch.num_layers = 2
    cfg.model.vision_backbone.frozen_stages = 2
    cfg.model.multimodal_backbone.num_hidden_layers = 2
    cfg.model.topk = 3
    cfg.test_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.test_dataloader.dataset.update(data_root=str(tmp_path), ann_file="gallery.json")
    return cfg


@pytest.mark.parametrize(("fast_match", "in_file"), [(False, False), (False, True), (True, False)])
def test_loop_ranks_as_all_pairs_one_by_one(cfg, fast_match, in_file, monkeypatch):
    cfg.model.fast_match = fast_match
    if in_file:  # no memory is enough
        monkeypatch.setattr("blip2.engine.feature_store.SHARE", 0.0)
    torch.manual_seed(1)
    runner = build_runner(cfg, device="cpu", test_only=True)
    metrics = runner.test()
    model, data = runner.model, runner.test_loop.dataloader.dataset.dataset
    samples = [data[number] for number in range(PICTURES)]
    images = model.data_preprocessor({"inputs": [sample["inputs"] for sample in samples]})["images"]
    texts = [text for sample in samples for text in sample["data_samples"].text]
    with torch.no_grad():
        pictures = model.image_features(images)
        scores = similarity_matrix(pictures["image_feat"], model.text_features(texts)["text_feat"])
        logits = torch.empty_like(scores)
        for place, text in enumerate(texts):
            ids, mask, _ = model.tokenize([text])
            for number in range(PICTURES):
                embeds = pictures["image_embeds"][number : number + 1]
                logits[number, place] = model.itm_scores(embeds, ids, mask)[0]
    for direction, similarity, added in (("i2t", scores, logits), ("t2i", scores.T, logits.T)):
        hits = dict.fromkeys((1, 5, 10), 0)
        for query in range(len(similarity)):
            best = similarity[query].argsort(descending=True).tolist()
            if not fast_match:
                again = sorted(best[:3], key=lambda c: -float(similarity[query, c] + added[query, c]))
                best = again + best[3:]
            if direction == "i2t":
                assert runner.test_loop.samples[query]["pred_text_id"] == best[:10]
            right = {2 * query, 2 * query + 1} if direction == "i2t" else {query // 2}
            for k in hits:
                hits[k] += bool(right & set(best[:k]))
        for k, count in hits.items():
            assert metrics[f"{direction}/retrieval/Recall@{k}"] == pytest.approx(100 * count / len(similarity)), k
