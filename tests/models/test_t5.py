"""`T5ForConditionalGeneration` in `Blip2Caption` and `Blip2VQA`, against transformers' BLIP-2 with the same weights."""

import json
import warnings

import pytest
import torch
import transformers
from torch.testing import assert_close
from toy_t5_tokenizer import save_t5_tokenizer

from blip2.checkpoints import CheckpointError
from blip2.models import T5ForConditionalGeneration
from blip2.models.language import t5_config
from blip2.models.language.generation import GenerationConfig, generate
from blip2.models.vqa_samples import asked
from blip2.registry import MODELS
from blip2.structures import DataSample

IMAGE_TOKEN, QUERIES, EOS = 63, 6, 1
SIZES = dict(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
QUESTIONS = ["how many birds sit on the wire above the hill?", "cup?", "what color is the boat?"]
TEMPLATE = "Question: {} Short answer:"
EXACT = dict(atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="session")
def t5_tokenizer(tmp_path_factory):
    """A folder with a tokenizer of transformers' T5 class: `</s>` is put last."""
    return save_t5_tokenizer(tmp_path_factory.mktemp("t5_tokenizer"), [*QUESTIONS, TEMPLATE])


@pytest.fixture
def t5_model(caption_config, t5_tokenizer):
    """Builds a tiny model with a T5; in Hugging Face's epsilon, for the peer's sake."""

    def build(**changes):
        config = caption_config(
            tokenizer=dict(type="AutoTokenizer", name_or_path=str(t5_tokenizer)),
            text_backbone=dict(type="T5ForConditionalGeneration", **SIZES),
            layer_norm_eps=1e-6,
        )
        return MODELS.build({**config, **changes}).eval()

    return build


def hf_t5_config(**changes):
    config = transformers.T5Config(**{**SIZES, **changes}, feed_forward_proj="gated-gelu")
    config.dense_act_fn, config.scale_decoder_outputs = "gelu", False
    config.decoder_start_token_id = 0
    return config


@torch.no_grad()
def liven_t5(lm, seed):
    """Large random weights, a head of its own, and an end that is likely enough for texts of different lengths."""
    lm.lm_head = torch.nn.Linear(SIZES["d_model"], SIZES["vocab_size"], bias=False)
    generator = torch.Generator().manual_seed(seed + 1000)
    for name, value in lm.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.copy_(1 + 0.2 * noise if value.dim() == 1 else 1.2 * noise / value.shape[1] ** 0.5)
        if "shared" in name or "relative" in name:
            value.copy_(noise)
    lm.lm_head.weight *= 2
    lm.lm_head.weight[EOS] *= 1.8


@pytest.fixture
def pair(blip2_peer, liven, our_keys):
    """For a model of ours: a function that gives transformers' BLIP-2 and it the weights of a seed."""
    config = blip2_peer.config
    config = transformers.Blip2Config(
        vision_config=config.vision_config.to_dict(),
        qformer_config=config.qformer_config.to_dict(),
        text_config=hf_t5_config().to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
    )
    peer = transformers.Blip2ForConditionalGeneration(config).eval()
    peer.language_model = transformers.T5ForConditionalGeneration(hf_t5_config()).eval()

    def build(ours):
        def seeded(seed, dtype=torch.float32):
            peer.float()
            liven(peer, seed)
            liven_t5(peer.language_model, seed)
            with torch.no_grad():
                for layer in peer.vision_model.encoder.layers:
                    layer.self_attn.qkv.bias[24:48] = 0  # BLIP-2's keys have no bias
            missing, unexpected = ours.float().load_state_dict(our_keys(peer.state_dict()), strict=False)
            assert unexpected == [] and [key for key in missing if not key.endswith("position_ids")] == []
            return peer.to(dtype), ours.to(dtype)

        return seeded

    return build


def pictures(seed, rows=3):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def peers_inputs(model, prompts):
    """Queries, then the prompts padded on the right, as LAVIS pads them."""
    rows = [[IMAGE_TOKEN] * QUERIES + ids for ids in model.tokenizer.encode(prompts)]
    width = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return torch.tensor([row + [0] * (width - len(row)) for row in rows]), mask


def written(sequences):
    """Token ids up to the end; transformers' beam search fills up with the end token itself."""
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in sequences.tolist()]


def test_the_keys_are_those_of_transformers_and_the_head_is_not_tied():
    lm = T5ForConditionalGeneration(**SIZES)
    assert set(lm.state_dict()) == set(transformers.T5ForConditionalGeneration(hf_t5_config()).state_dict())
    assert lm.lm_head.weight is not lm.shared.weight
    assert lm.shared.weight is lm.encoder.embed_tokens.weight is lm.decoder.embed_tokens.weight


@torch.no_grad()
def test_logits_agree_within_1e_5_for_prompts_of_different_lengths(pair, t5_model):
    """In double precision: T5 does not scale its attention scores, which makes rounding show."""
    ours = t5_model()
    seeded = pair(ours)
    texts = ours._continuations(["a red boat", "two children who fly a kite", "a cup"])
    labels = torch.tensor([text + [-100] * (max(map(len, texts)) - len(text)) for text in texts])
    for seed in range(5):
        peer, ours = seeded(seed, torch.float64)
        images = pictures(seed).double()
        ids, mask = peers_inputs(ours, [TEMPLATE.replace("{}", question) for question in QUESTIONS])
        assert not mask.all()
        expected = peer(pixel_values=images, input_ids=ids, attention_mask=mask, labels=labels)
        prompts = ours.tokenizer.encode([TEMPLATE.replace("{}", question) for question in QUESTIONS])
        inputs, padding = ours._prompted(ours.encode(images), prompts)
        lm = ours.text_backbone
        found = lm.lm_head(lm.hidden_states(labels.clamp_min(0), lm.read(inputs, padding), padding))
        learned = labels != -100
        assert_close(found[learned], expected.logits[learned], **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"num_beams": 5}, {"num_beams": 3, "num_captions": 2}, {"num_beams": 1}])
def test_ids_equal_those_of_transformers_over_many_seeds(pair, t5_model, options):
    """In double precision, which leaves no near ties for the rounding of one machine or another to decide."""
    ours = t5_model(type="Blip2VQA", prompt=TEMPLATE, max_txt_len=8)
    seeded, lengths = pair(ours), set()
    for seed in range(25):
        peer, ours = seeded(seed, torch.float64)
        images = pictures(seed).double()
        ids, mask = peers_inputs(ours, [TEMPLATE.replace("{}", question) for question in QUESTIONS])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = peer.generate(
                pixel_values=images,
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=8,
                min_new_tokens=1,
                do_sample=False,
                num_beams=options["num_beams"],
                num_return_sequences=options.get("num_captions", 1),
                length_penalty=-1.0,
                eos_token_id=EOS,
                pad_token_id=0,
            )
        questions = [asked(DataSample(question=question), TEMPLATE) for question in QUESTIONS]
        found = ours.generate(images, questions, ours._options(options))
        assert written(found.sequences) == written(expected[:, 1:]), f"seed {seed}"
        lengths.update(found.lengths.tolist())
    assert len(lengths) > 4


@torch.no_grad()
def test_a_batch_of_different_prompts_is_as_batches_of_one(pair, t5_model):
    _, ours = pair(t5_model(type="Blip2VQA", prompt=TEMPLATE, max_txt_len=8))(0, torch.float64)
    together = ours.predict(pictures(0).double(), [DataSample(question=question) for question in QUESTIONS])
    for image, question, sample in zip(pictures(0).double(), QUESTIONS, together, strict=True):
        (alone,) = ours.predict(image[None], [DataSample(question=question)])
        assert alone.pred_answer == sample.pred_answer
        assert alone.pred_score == pytest.approx(sample.pred_score, rel=1e-9)


@torch.no_grad()
def test_the_loss_of_captions_is_that_of_transformers(pair, t5_model):
    captions = ["a red boat", "two children who fly a kite above the hill", "a cup"]
    seeded = pair(t5_model(max_txt_len=60))
    for seed in range(3):
        peer, ours = seeded(seed)
        ids, mask = peers_inputs(ours, ["a photo of"] * 3)
        texts = ours.tokenizer.encode(captions)
        assert all(text[-1] == EOS for text in texts)
        labels = torch.tensor([text + [-100] * (max(map(len, texts)) - len(text)) for text in texts])
        expected = peer(pixel_values=pictures(seed), input_ids=ids, attention_mask=mask, labels=labels).loss
        found = ours.loss(pictures(seed), [DataSample(gt_caption=caption) for caption in captions])["loss"]
        assert_close(found, expected, **EXACT)


@torch.no_grad()
def test_prefixes_go_to_the_encoder_and_the_rest_is_learned(pair, t5_model):
    """Prefix language modelling; in eval mode a caption is cut in the middle."""
    halves = {"a red boat": ("a", "red boat"), "two children who fly a kite": ("two children who", "fly a kite")}
    peer, ours = pair(t5_model(max_txt_len=60, prompt="", prefix_captions=True))(0, torch.float64)
    total = count = 0.0
    for image, (prefix, rest) in zip(pictures(0).double(), halves.values(), strict=False):
        ids, mask = peers_inputs(ours, [prefix])
        labels = torch.tensor(ours.tokenizer.encode([rest]))
        loss = peer(pixel_values=image[None], input_ids=ids, attention_mask=mask, labels=labels).loss
        total, count = total + loss * labels.shape[1], count + labels.shape[1]
    found = ours.loss(pictures(0)[:2].double(), [DataSample(gt_caption=caption) for caption in halves])["loss"]
    assert_close(found.double(), total / count, **EXACT)
    ours.train()
    drawn = {ours._lessons(["two children who fly a kite"])[0].given[0] for _ in range(30)}
    lengths = {len(ours._lessons(["two children who fly a kite"])[0].given) for _ in range(30)}
    assert len(lengths) > 3 and EOS in drawn, "some give nothing at all"


def plain_losses(peer, ours, image, question, answer):
    """Negative log-likelihoods of an answer's tokens, one plain forward pass."""
    ids, mask = peers_inputs(ours, [TEMPLATE.replace("{}", question)])
    labels = torch.tensor(ours.tokenizer.encode([answer]))
    logits = peer(pixel_values=image[None], input_ids=ids, attention_mask=mask, labels=labels).logits[0]
    return -logits.log_softmax(-1).gather(1, labels[0][:, None]).squeeze(1)


@torch.no_grad()
def test_the_loss_of_answers_is_the_weighted_mean_of_plain_forward_passes(pair, t5_model):
    answers = [["red", "a red boat", "two"], ["yellow"], ["blue", "a small cup"]]
    weights = [[0.6, 0.3, 0.1], [1.0], [0.5, 0.5]]
    peer, ours = pair(t5_model(type="Blip2VQA", prompt=TEMPLATE, max_txt_len=60))(0, torch.float64)
    total = count = 0.0
    for image, question, texts, shares in zip(pictures(0).double(), QUESTIONS, answers, weights, strict=True):
        for text, share in zip(texts, shares, strict=True):
            losses = plain_losses(peer, ours, image, question, text)
            total, count = total + share * losses.sum(), count + share * len(losses)
    samples = [
        DataSample(question=question, gt_answer=texts, gt_answer_weight=shares)
        for question, texts, shares in zip(QUESTIONS, answers, weights, strict=True)
    ]
    assert_close(ours.loss(pictures(0).double(), samples)["loss"].double(), total / count, **EXACT)


@torch.no_grad()
def test_candidates_are_scored_as_by_plain_forward_passes(pair, t5_model):
    candidates = ["red", "two birds", "a small blue cup", "yellow"]
    peer, ours = pair(t5_model(type="Blip2VQA", prompt=TEMPLATE))(0, torch.float64)
    samples = [DataSample(question=question) for question in QUESTIONS]
    ours.predict(pictures(0).double(), samples, answers=candidates)
    for image, question, sample in zip(pictures(0).double(), QUESTIONS, samples, strict=True):
        expected = [-float(plain_losses(peer, ours, image, question, text).sum()) for text in candidates]
        assert sample.pred_answer_scores == pytest.approx(expected, rel=1e-6)


def test_gradients_reach_the_queries_and_not_the_language_model(t5_model):
    model = t5_model().train()
    model.loss(pictures(0, 1), [DataSample(gt_caption="a red boat")])["loss"].backward()
    assert model.query_tokens.grad.abs().sum() > 0 and model.vision_neck.fc.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.text_backbone.parameters())
    assert not model.text_backbone.training


@torch.no_grad()
def test_finished_pictures_and_samples_leave_the_others_as_they_were():
    """Greedy search in a batch, where rows end at different steps, against each row alone; samples by seed."""
    lm = T5ForConditionalGeneration(**SIZES).eval().double()
    liven_t5(lm, 3)
    lm.double()
    inputs = torch.randn(4, 5, 32, dtype=torch.float64)
    config = GenerationConfig(eos_token_id=EOS, pad_token_id=0, max_new_tokens=10)
    together = generate(lm, inputs, None, config)
    assert len(set(together.lengths.tolist())) > 1
    for row, length, ids in zip(inputs, together.lengths, together.sequences, strict=True):
        assert generate(lm, row[None], None, config).sequences[0].tolist() == ids[:length].tolist()
    drawn = GenerationConfig(EOS, 0, 10, do_sample=True, top_p=0.9, num_return_sequences=3, seed=0)
    first, second = generate(lm, inputs, None, drawn), generate(lm, inputs, None, drawn)
    assert first.sequences.tolist() == second.sequences.tolist()


# ----- sizes and weights -----


@pytest.mark.parametrize(
    ("name", "count"), [("google/flan-t5-xl", 2_849_757_184), ("google/flan-t5-xxl", 11_135_332_352)]
)
def test_published_sizes_build_without_network_or_memory(name, count):
    with torch.device("meta"):
        lm = T5ForConditionalGeneration(name)
    assert sum(parameter.numel() for parameter in lm.parameters()) == count
    assert lm.lm_head.weight is not lm.shared.weight


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder with a tiny Flan-T5, whose head is not its embeddings."""
    peer = transformers.T5ForConditionalGeneration(hf_t5_config())
    peer.lm_head = torch.nn.Linear(32, 64, bias=False)
    peer.config.tie_word_embeddings = False
    peer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return tmp_path, peer


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_local_folder_gives_sizes_and_weights(folder, device):
    path, peer = folder
    with torch.device(device):
        lm = T5ForConditionalGeneration(str(path))
    lm.load_pretrained(path)
    expected = peer.state_dict()
    assert set(lm.state_dict()) == set(expected)
    for key, value in lm.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert lm.shared.weight is lm.decoder.embed_tokens.weight and lm.lm_head.weight is not lm.shared.weight


def test_weights_of_another_size_are_refused_by_key(folder):
    with pytest.raises(CheckpointError, match=r"DenseReluDense\.wi_0\.weight is \(48, 32\), wanted \(40, 32\)"):
        T5ForConditionalGeneration(**{**SIZES, "d_ff": 40}).load_pretrained(folder[0])


def test_overrides_win_and_other_architectures_are_refused(tmp_path):
    assert t5_config("google/flan-t5-xl", num_layers=2).num_layers == 2
    assert t5_config("google/flan-t5-xl").d_ff == 5120
    with pytest.raises(FileNotFoundError, match=r"google/flan-t5-xl.*config\.json"):
        t5_config("google/flan-t5-xs")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "feed_forward_proj": "relu"}))
    with pytest.raises(ValueError, match="feed_forward_proj='relu' is not offered"):
        t5_config(tmp_path)
