"""`Blip2VQA` against `Blip2ForConditionalGeneration` and InstructBLIP's Q-Former of transformers, same weights."""

import warnings

import pytest
import torch
from torch.testing import assert_close
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from blip2.models.vqa_samples import asked
from blip2.structures import DataSample

IMAGE_TOKEN, QUERIES, PAD = 303, 6, 1
QUESTIONS = ["how many birds sit on the wire above the hill?", "cup?", "what color is the boat?"]


@pytest.fixture
def pair(blip2_pair, vqa_model):
    return blip2_pair(vqa_model(layer_norm_eps=1e-6))  # Hugging Face's epsilon


def pictures(seed, rows=3):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(seed)).double()


def left_padded(tokens):
    width = max(map(len, tokens))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in tokens])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in tokens])


def prompt_tokens(model):
    prompts = model.tokenizer.encode([f"Question: {question} Answer:" for question in QUESTIONS])
    return [[IMAGE_TOKEN] * QUERIES + prompt for prompt in prompts]


def test_answer_ids_equal_those_of_transformers_with_prompts_padded_on_the_left(pair):
    """In double precision, which leaves no near ties for the rounding of one machine or another to decide."""
    lengths = set()
    for seed in range(30):
        peer, ours = pair(seed, torch.float64)
        ids, mask = left_padded(prompt_tokens(ours))
        assert not mask.all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = peer.generate(
                pixel_values=pictures(seed),
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=6,
                min_new_tokens=1,
                do_sample=False,
                num_beams=5,
                length_penalty=-1.0,
                eos_token_id=ours.tokenizer.token_id("\n"),
                pad_token_id=PAD,
            )
        questions = [asked(DataSample(question=question), ours.options.prompt) for question in QUESTIONS]
        found = ours.generate(pictures(seed), questions, ours.options)
        assert found.sequences.tolist() == expected[:, ids.shape[1] :].tolist(), f"seed {seed}"
        lengths.update(found.lengths.tolist())
    assert len(lengths) == 5  # from two tokens, the least that min_length=1 allows, to the limit


def answer_losses(peer, model, image, prompt, answers):
    """Negative log-likelihoods of each answer's tokens by transformers, one plain forward pass an answer."""
    for answer in answers:
        whole = model.tokenizer.encode([f"Question: {prompt} Answer: {answer}\n"])[0]
        given = len(model.tokenizer.encode([f"Question: {prompt} Answer:"])[0])
        ids = torch.tensor([[IMAGE_TOKEN] * QUERIES + whole])
        logits = peer(pixel_values=image[None], input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        log_probs = logits[QUERIES + given - 1 : -1].log_softmax(-1)
        yield -log_probs.gather(1, torch.tensor(whole[given:])[:, None]).squeeze(1)


@torch.no_grad()
def test_loss_is_the_weighted_mean_of_plain_forward_passes(pair):
    answers = [["red", "a red boat", "two"], ["yellow"], ["blue", "a small cup"]]
    weights = [[0.6, 0.3, 0.1], [1.0], [0.5, 0.5]]
    for seed in range(3):
        peer, ours = pair(seed, torch.float64)
        ours.options = ours._options({"max_txt_len": 20})
        images, total, count = pictures(seed), 0.0, 0.0
        for image, question, texts, shares in zip(images, QUESTIONS, answers, weights, strict=True):
            for losses, share in zip(answer_losses(peer, ours, image, question, texts), shares, strict=True):
                total, count = total + share * losses.sum(), count + share * len(losses)
        samples = [
            DataSample(question=question, gt_answer=texts, gt_answer_weight=shares)
            for question, texts, shares in zip(QUESTIONS, answers, weights, strict=True)
        ]
        assert_close(ours.loss(images, samples)["loss"].double(), total / count, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scores_of_candidates_are_the_log_probabilities_of_plain_forward_passes(pair):
    candidates = ["red", "two birds", "a small blue cup", "yellow"]
    peer, ours = pair(0, torch.float64)
    samples = ours.predict(pictures(0), [DataSample(question=question) for question in QUESTIONS], answers=candidates)
    for image, question, sample in zip(pictures(0), QUESTIONS, samples, strict=True):
        expected = [-float(losses.sum()) for losses in answer_losses(peer, ours, image, question, candidates)]
        assert sample.pred_answer_scores == pytest.approx(expected, rel=1e-6)
        assert (sample.pred_answer, sample.pred_score) == max(
            zip(candidates, sample.pred_answer_scores, strict=True), key=lambda pair: pair[1]
        )


@torch.no_grad()
def test_qformer_reads_questions_as_that_of_instructblip(vqa_model, liven):
    """InstructBLIP's Q-Former, too, has queries and text attend to one another in both directions."""
    ours = vqa_model(question_in_qformer=True).eval()
    liven(ours, 0)
    qformer = ours.multimodal_backbone
    peer = InstructBlipQFormerModel(
        InstructBlipQFormerConfig(
            vocab_size=30523,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            cross_attention_frequency=2,
            encoder_hidden_size=24,
            layer_norm_eps=1e-12,
        )
    ).eval()
    state = {}
    for key, value in qformer.bert.state_dict().items():
        key = key.replace("crossattention.self.", "crossattention.attention.").replace(
            "attention.self.", "attention.attention."
        )
        state[key.replace("embeddings.LayerNorm", "embeddings.layernorm")] = value
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert (missing, unexpected) == ([], ["embeddings.position_ids"])
    images = pictures(0).float()
    questions = [asked(DataSample(question=question), "{}") for question in QUESTIONS]
    ids, mask = ours._question_ids(questions, images.device)
    assert not mask.all()
    expected = peer(
        input_ids=ids,
        attention_mask=torch.cat((torch.ones(3, QUERIES, dtype=torch.long), mask), 1),
        query_embeds=ours.query_tokens.expand(3, -1, -1),
        encoder_hidden_states=ours.encode_image(images),
    ).last_hidden_state[:, :QUERIES]
    assert_close(ours.read(images, questions), ours.vision_neck(expected), atol=1e-5, rtol=1e-5)
