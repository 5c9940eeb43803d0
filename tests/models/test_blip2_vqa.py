"""What `Blip2VQA` does with questions, prompts, answers and their weights."""

import pytest
import torch

from blip2.registry import MODELS
from blip2.structures import DataSample

QUESTIONS = [
    "what color is the boat?",
    "how many birds sit on the wire above the hill, and which of them flies away?",
    "cup?",
]


def pictures(rows=2, seed=0):
    return torch.randn(rows, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def vqa_model(caption_config, word_folder):
    """Builds a tiny `Blip2VQA`; arguments replace or add to the entries of its config."""

    def build(**changes):
        config = caption_config(type="Blip2VQA", prompt="Question: {} Answer:", max_txt_len=6)
        config["text_backbone"]["max_position_embeddings"] = 128
        if changes.get("question_in_qformer"):
            config["qformer_tokenizer"] = {"type": "Blip2Tokenizer", "name_or_path": str(word_folder)}
        return MODELS.build({**config, **changes})

    return build


@pytest.fixture(scope="session")
def word_folder(tmp_path_factory):
    """A folder with a BERT vocabulary of the words of the questions."""
    folder = tmp_path_factory.mktemp("words")
    words = sorted({word.strip("?,") for question in QUESTIONS for word in question.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", ",", *words]))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return folder


@pytest.fixture(params=[False, True], ids=["language model reads", "Q-Former reads too"])
def model(request, vqa_model, liven):
    model = vqa_model(question_in_qformer=request.param).eval()
    liven(model, 0, lm=model.text_backbone, eos=model.tokenizer.token_id("\n"))
    return model.double()


def test_smoke(model):
    samples = [
        DataSample(question=QUESTIONS[:2], gt_answer=[["red", "blue"], "two"], gt_answer_weight=[[0.7, 0.3], None]),
        DataSample(question=QUESTIONS[2], gt_answer=["red", "blue"], gt_answer_weight=[0.7, 0.3]),
    ]
    print(model.loss(pictures().double(), samples))
    print(model.predict(pictures().double(), samples))
