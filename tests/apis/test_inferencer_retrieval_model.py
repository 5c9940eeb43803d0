"""The retrieval inferencers and the feature extractor around a tiny `Blip2Retrieval`, against its parts one by one."""

import json

import pytest
import torch
import torch.nn.functional as F

from blip2.apis.inferencers import FeatureExtractor, ImageToTextRetrievalInferencer, TextToImageRetrievalInferencer

TEXTS = ["a red circle", "a blue square left of a red circle", "the two blue circles", "red", "a square", "circle left"]
WORDS = ["a", "red", "blue", "circle", "square", "left", "of", "the", "two", "circles"]


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("BLIP2_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("words")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return str(folder)


@pytest.fixture(scope="module")
def model(tiny_config, build, words):
    qformer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = tiny_config(
        "Blip2Retrieval",
        keys=("text",),
        tokenizer={"type": "Blip2Tokenizer", "name_or_path": words},
        multimodal_backbone={
            "type": "Qformer",
            "vision_model_width": 24,
            "num_query_token": 4,
            "vocab_size": len(WORDS) + 6,
            **qformer,
        },
        vision_neck={"type": "LinearClsHead", "in_channels": 32, "num_classes": 16},
        text_neck={"type": "LinearClsHead", "in_channels": 32, "num_classes": 16},
        multimodal_head={"type": "ITMHead", "hidden_size": 32, "with_pooler": False},
        text_backbone=None,
        max_txt_len=10,
        topk=3,
    )
    return build(config)


@pytest.fixture(scope="module")
def pairs(model, pictures) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity and matching logit, pictures × texts, of one picture and one text at a time."""
    pipeline = ImageToTextRetrievalInferencer(model, TEXTS, prototype_cache=False).pipeline
    itc, itm = torch.zeros(2, len(pictures), len(TEXTS))
    with torch.no_grad():
        for row, picture in enumerate(pictures):
            data = model.data_preprocessor({"inputs": [pipeline(picture)["inputs"]], "data_samples": None})
            image = model.image_features(data["images"])
            for column, text in enumerate(TEXTS):
                words = model.text_features([text])
                itc[row, column] = max(image["image_feat"][0] @ words["text_feat"][0])
                itm[row, column] = model.itm_scores(image["image_embeds"], words["input_ids"], words["attention_mask"])
    return itc, itm


def reranked(itc: torch.Tensor, itm: torch.Tensor, topk: int) -> torch.Tensor:
    """Row by row: the `topk` best of `itc` gain `itm`, the others lose 100."""
    scores = itc - 100
    for row in range(len(itc)):
        for column in sorted(range(itc.shape[1]), key=lambda column: -itc[row, column].item())[:topk]:
            scores[row, column] = itc[row, column] + itm[row, column]
    return scores


def scores_of(samples) -> torch.Tensor:
    return torch.stack([sample.pred_score for sample in samples])


@pytest.mark.parametrize("fast_match", [True, False])
def test_scores_are_those_of_single_pairs(model, pictures, pairs, fast_match: bool) -> None:
    itc, itm = pairs
    texts = ImageToTextRetrievalInferencer(model, TEXTS, fast_match=fast_match)
    found = ImageToTextRetrievalInferencer(model, TEXTS, fast_match=fast_match)
    for inferencer in (texts, found):  # the second takes the features from the disk
        samples = inferencer(pictures, return_datasamples=True, batch_size=3)
        expected = itc if fast_match else reranked(itc, itm, model.topk)
        torch.testing.assert_close(scores_of(samples), expected, atol=1e-4, rtol=0)
    for _ in range(2):
        inferencer = TextToImageRetrievalInferencer(model, pictures, fast_match=fast_match, prepare_batch_size=2)
        samples = inferencer(TEXTS, return_datasamples=True, batch_size=4)
        expected = itc.T if fast_match else reranked(itc.T, itm.T, model.topk)
        torch.testing.assert_close(scores_of(samples), expected, atol=1e-4, rtol=0)


def test_test_is_not_void(pairs, model) -> None:
    itc, itm = pairs
    assert (reranked(itc, itm, model.topk).argmax(1) != itc.argmax(1)).any()
    assert itc.std() > 0.01 and itm.std() > 0.1


def test_inferencers_leave_the_models_own_choice_of_ranking_alone(model, pictures) -> None:
    before = model.fast_match
    ImageToTextRetrievalInferencer(model, TEXTS, fast_match=not before)(pictures[0])
    assert model.fast_match == before


def test_compare_gives_similarity_and_probability(model, pictures, pairs) -> None:
    itc, _ = pairs
    results = ImageToTextRetrievalInferencer(model, TEXTS).compare(pictures, batch_size=2)
    torch.testing.assert_close(torch.tensor([one["itc"] for one in results]), itc, atol=1e-4, rtol=0)
    extractor = FeatureExtractor(model)
    for row, picture in enumerate(pictures[:2]):
        for column, text in enumerate(TEXTS):
            (hidden,) = extractor(picture, texts=text)
            with torch.no_grad():
                probability = model.multimodal_head(hidden).mean(0).softmax(0)[1].item()
            assert results[row]["itm"][column] == pytest.approx(probability, abs=1e-4)


def test_same_picture_resembles_itself_most(model, pictures) -> None:
    inferencer = TextToImageRetrievalInferencer(model, pictures)
    for index, matches in enumerate(inferencer.search_by_image(pictures, topk=2)):
        assert matches[0]["sample_idx"] == index
        assert matches[0]["match_score"] == pytest.approx(1, abs=1e-5)
        assert matches[1]["match_score"] < 1 - 1e-4


# ----- FeatureExtractor -----


def test_features_of_pictures_are_those_of_the_models_parts(model, pictures) -> None:
    extractor = FeatureExtractor(model)
    data = model.data_preprocessor({"inputs": [extractor.pipeline(pictures[1])["inputs"]], "data_samples": None})
    with torch.no_grad():
        embeds = model.encode_image(data["images"])
        hidden = model.query_image(embeds)
        projected = F.normalize(model.vision_neck(hidden), dim=-1)
    for stage, expected in (("backbone", embeds), ("qformer", hidden), ("projection", projected), (None, projected)):
        _, found, _ = extractor(pictures[:3], batch_size=2, stage=stage)
        torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=0)
    (pooled,) = extractor(pictures[1], stage="qformer", pool="mean")
    torch.testing.assert_close(pooled, hidden[0].mean(0), atol=1e-5, rtol=0)
    (first,) = extractor(pictures[1], stage="backbone", pool="first", normalize=True)
    torch.testing.assert_close(first, embeds[0, 0] / embeds[0, 0].norm(), atol=1e-5, rtol=0)
    (rows,) = extractor(pictures[1], stage="qformer", normalize=True)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))


def test_features_of_a_text_do_not_depend_on_the_texts_beside_it(model) -> None:
    extractor = FeatureExtractor(model)
    together = extractor(texts=TEXTS, stage="qformer")
    assert [len(rows) for rows in together] == [len(text.split()) + 2 for text in TEXTS]
    for text, rows in zip(TEXTS, together, strict=True):
        (alone,) = extractor(texts=text, stage="qformer")
        torch.testing.assert_close(rows, alone, atol=1e-5, rtol=0)
        (mean,) = extractor(texts=[text], stage="qformer", pool="mean")
        torch.testing.assert_close(mean, alone.mean(0), atol=1e-5, rtol=0)
        (projected,) = extractor(texts=text)
        with torch.no_grad():
            expected = F.normalize(model.text_neck(alone[0]), dim=0)
        torch.testing.assert_close(projected, expected, atol=1e-5, rtol=0)


def test_pairs_take_one_text_each_or_one_for_all(model, pictures) -> None:
    extractor = FeatureExtractor(model)
    each = extractor(pictures[:2], batch_size=2, texts=TEXTS[:2])
    assert [rows.shape for rows in each] == [(4, 32)] * 2
    torch.testing.assert_close(each[1], extractor(pictures[1], texts=TEXTS[1])[0], atol=1e-5, rtol=0)
    both = extractor(pictures[:2], texts=TEXTS[1])
    torch.testing.assert_close(both[1], each[1], atol=1e-5, rtol=0)
    assert (each[0] - both[0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="3 for 2 pictures"):
        extractor(pictures[:2], texts=TEXTS[:3])


def test_captioner_has_features_of_pictures_only(tiny_config, build, pictures) -> None:
    extractor = FeatureExtractor(build(tiny_config("Blip2Caption")))
    assert extractor(pictures[0])[0].shape == (4, 32)
    assert extractor(pictures[0], stage="backbone")[0].shape == (5, 24)
    with pytest.raises(ValueError, match=r"stage='projection': of pictures a Blip2Caption has 'backbone', 'qformer'"):
        extractor(pictures[0], stage="projection")
    with pytest.raises(ValueError, match="Blip2Caption has no features of texts"):
        extractor(texts="a red circle")


def test_wrong_options_are_refused(model, pictures) -> None:
    extractor = FeatureExtractor(model)
    with pytest.raises(TypeError, match="needs pictures"):
        extractor()
    with pytest.raises(ValueError, match=r"stage='qfromer'.*Did you mean 'qformer'"):
        extractor(pictures[0], stage="qfromer")
    with pytest.raises(ValueError, match="stage='backbone': of texts"):
        extractor(texts="red", stage="backbone")
    with pytest.raises(ValueError, match="stage='projection': of pairs"):
        extractor(pictures[0], texts="red", stage="projection")
    with pytest.raises(ValueError, match="pool='max'"):
        extractor(pictures[0], pool="max")
    with pytest.raises(ValueError, match=r"texts\[0\] is ''"):
        extractor(texts="")
    with pytest.raises(ValueError, match="batch_size=0"):
        extractor(pictures[0], batch_size=0)
