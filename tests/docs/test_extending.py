"""docs/extending.md: its blocks run in order in one process, and its language model computes what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import blip2
from blip2.apis.config import load_config

TEXT = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:^<!-- (.*?) -->\n)?^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)

# The texts that the page's language model writes and ranks, against its plain forward pass over the whole text.
CHECK = """
from blip2.models.language import GenerationConfig, generate
from blip2.models.language.ranking import rank

torch.manual_seed(0)
lm = MeanLM(30, 8).double().eval()
prompts = torch.randn(2, 5, 8).double()


def log_probability(row, ids):
    embeds = torch.cat([prompts[row], lm.embed(torch.tensor(ids))])[None]
    log_probs = lm.lm_head(lm.hidden_states(embeds))[0].log_softmax(-1)
    return float(sum(log_probs[4 + place, token].detach() for place, token in enumerate(ids)))


config = GenerationConfig(eos_token_id=3, pad_token_id=1, max_new_tokens=6, num_beams=4, num_return_sequences=4)
written = generate(lm, prompts, None, config)
for index, (ids, length) in enumerate(zip(written.sequences.tolist(), written.lengths.tolist())):
    assert abs(float(written.log_probs[index]) - log_probability(index // 4, ids[:length])) < 1e-5
texts = [[5, 6, 7], [8, 9], [4]]
for row, scores in enumerate(rank(lm, prompts, None, texts).tolist()):
    for ids, score in zip(texts, scores):
        assert abs(score - log_probability(row, ids)) < 1e-5
"""


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path):
    page = [text for comment, text in BLOCKS if not comment.startswith("not run:")]
    assert len(page) == 5
    package = str(Path(blip2.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*page, CHECK])],
        cwd=tmp_path,
        env=dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONPATH=package),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "16 a purple ring on the left of a red square" in done.stdout
    for said in re.findall(r"^print\(.*\)  # (.+)$", "\n".join(page), flags=re.MULTILINE):
        assert said in done.stdout.splitlines()


def test_the_config_with_a_published_language_model_loads(tmp_path):
    (text,) = [text for comment, text in BLOCKS if comment.startswith("not run:")]
    path = tmp_path / "own.py"
    path.write_text(text, encoding="utf-8")
    model = load_config(path).model
    assert model.text_backbone == {"type": "HFCausalLM", "name_or_path": model.tokenizer.name_or_path}
