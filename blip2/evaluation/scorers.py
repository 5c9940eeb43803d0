"""Caption scores by pycocoevalcap's scorers, called one by one: its own ``COCOEvalCap`` always builds SPICE, which
downloads."""

import logging
import subprocess
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from mmengine.logging import print_log

from blip2.evaluation.java import find_java, java_environment, java_first

METRIC_NAMES = ("Bleu", "METEOR", "ROUGE_L", "CIDEr", "SPICE")
SPICE_HINT = (
    "SPICE is left out: its models are not installed; "
    "`python -m pycocoevalcap.spice.get_stanford_models` fetches them (about 400 MB)"
)

Key = TypeVar("Key", bound=Hashable)

# Tokenised captions of each picture; a candidate is a list of one.
_Tokens = dict[int, list[str]]


class SpiceError(RuntimeError):
    """SPICE's program failed."""


def spice_available() -> bool:
    """Whether SPICE's models lie where pycocoevalcap expects them."""
    folder = _package_folder() / "spice" / "lib"
    return all((folder / f"stanford-corenlp-3.6.0{ending}.jar").is_file() for ending in ("", "-models"))


def select_metrics(metrics: Sequence[str] | None) -> list[str]:
    """The metrics to compute: those asked for, or (``None``) all that can be computed here.

    Raises:
        ValueError: an unknown name, or SPICE asked for without its models.
    """
    if metrics is None:
        return [name for name in METRIC_NAMES if name != "SPICE" or spice_available()]
    unknown = [name for name in metrics if name not in METRIC_NAMES]
    if unknown or isinstance(metrics, str) or not metrics:
        raise ValueError(f"metrics={metrics!r}: choose a list of {list(METRIC_NAMES)}")
    if "SPICE" in metrics and not spice_available():
        raise ValueError(SPICE_HINT.replace("is left out", "cannot be computed"))
    return [name for name in METRIC_NAMES if name in metrics]


def caption_scores(
    references: Mapping[Key, Sequence[str]],
    candidates: Mapping[Key, str],
    metrics: Sequence[str] | None = None,
) -> dict[str, float]:
    """Corpus scores of one caption per picture, as the COCO caption evaluation computes them.

    Names and scale are pycocoevalcap's: ``Bleu_1`` … ``Bleu_4``, ``METEOR``, ``ROUGE_L``, ``SPICE`` from 0 to 1,
    ``CIDEr`` (its CIDEr-D) from 0 to 10; tables in papers show 100 times that. CIDEr weighs words by how rare they are
    in the references of the pictures that are scored, so a part of a set scores differently, and a single picture
    always 0.

    Args:
        references: the true captions of each picture; pictures without a candidate are not scored.
        candidates: the caption to score, for each picture.
        metrics: names out of `METRIC_NAMES`; by default all that can be computed here.

    Raises:
        ValueError: no candidates, a candidate without references, an unknown metric.
        JavaNotFoundError: no Java runtime.
        RuntimeError: the tokenizer or METEOR failed; its own words are in the message.
    """
    selected = select_metrics(metrics)
    if not candidates:
        raise ValueError("there are no captions to score")
    without = [key for key in candidates if not references.get(key)]
    if without:
        raise ValueError(f"{len(without)} picture(s) have no reference captions, the first is {without[0]!r}")
    java = find_java()
    gts, res = _tokenize_all([list(references[key]) for key in candidates], list(candidates.values()), java)
    scorers = {"Bleu": _bleu, "METEOR": _meteor, "ROUGE_L": _rouge, "CIDEr": _cider, "SPICE": _spice}
    scores: dict[str, float] = {}
    for name in selected:
        try:
            scores.update(scorers[name](gts, res, java))
        except SpiceError as error:
            # Java's version and memory decide whether SPICE runs; the other scores do not depend on it.
            print_log(f"SPICE is left out: {error}", "current", logging.WARNING)
    return scores


def ptb_tokenize(captions: Sequence[str], java: Path) -> list[str]:
    """Each caption lower-cased, cut to words by Stanford's tokenizer, without punctuation, joined by single spaces.

    Brackets stay, as ``-lrb-`` and ``-rrb-``, because the list of punctuation has them in capitals.
    The same program and the same list as pycocoevalcap's ``PTBTokenizer``, which however writes a file into
    its own package (often read-only), and counts any line separator inside a caption (a carriage return, U+2028 …) as
    the end of it, so that all later captions shift by one. Here white space is made plain first and the text goes
    through a pipe.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    plain = [" ".join(caption.split()) for caption in captions]
    # A caption of nothing has no tokens; its empty line is kept from the program.
    filled = [index for index, caption in enumerate(plain) if caption]
    tokenized = [""] * len(plain)
    if not filled:
        return tokenized
    jar = _package_folder() / "tokenizer" / STANFORD_CORENLP_3_4_1_JAR
    program = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    done = subprocess.run(
        [str(java), "-cp", str(jar), *program],
        input="".join(f"{plain[index]}\n" for index in filled).encode("utf-8", "replace"),
        capture_output=True,
        env=java_environment(java),
    )
    lines = done.stdout.decode("utf-8", "replace").removesuffix("\n").split("\n")
    if done.returncode or len(lines) != len(filled):
        what = f"gave {len(lines)} lines for {len(filled)} captions" if not done.returncode else "failed"
        raise RuntimeError(f"the PTB tokenizer {what}: {done.stderr.decode('utf-8', 'replace').strip()[-500:]}")
    for index, line in zip(filled, lines, strict=True):
        tokenized[index] = " ".join(word for word in line.split() if word not in PUNCTUATIONS)
    return tokenized


def _tokenize_all(references: list[list[str]], candidates: list[str], java: Path) -> tuple[_Tokens, _Tokens]:
    flat = [caption for captions in references for caption in captions]
    tokens = iter(ptb_tokenize(flat + candidates, java))
    gts = {index: [next(tokens) for _ in captions] for index, captions in enumerate(references)}
    res = {index: [next(tokens)] for index in range(len(candidates))}
    return gts, res


def _package_folder() -> Path:
    spec = find_spec("pycocoevalcap")
    # A namespace package: it has locations, no file of its own.
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the caption scores need pycocoevalcap: `pip install pycocoevalcap`")
    return Path(next(iter(spec.submodule_search_locations)))


def _bleu(gts: _Tokens, res: _Tokens, java: Path) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu

    scores, _ = Bleu(4).compute_score(gts, res, verbose=0)
    return {f"Bleu_{n}": float(score) for n, score in enumerate(scores, start=1)}


def _rouge(gts: _Tokens, res: _Tokens, java: Path) -> dict[str, float]:
    from pycocoevalcap.rouge.rouge import Rouge

    return {"ROUGE_L": float(Rouge().compute_score(gts, res)[0])}


def _cider(gts: _Tokens, res: _Tokens, java: Path) -> dict[str, float]:
    from pycocoevalcap.cider.cider import Cider

    return {"CIDEr": float(Cider().compute_score(gts, res)[0])}


def _meteor(gts: _Tokens, res: _Tokens, java: Path) -> dict[str, float]:
    from pycocoevalcap.meteor.meteor import Meteor

    with java_first(java):
        meteor = Meteor()
    process = meteor.meteor_p
    try:
        return {"METEOR": float(meteor.compute_score(gts, res)[0])}
    except (ValueError, OSError) as error:
        process.kill()
        with suppress(OSError):
            process.stdin.close()
        words = process.stderr.read().decode("utf-8", "replace").strip()[-500:]
        raise RuntimeError(f"METEOR failed ({error}): {words}. It needs 2 GB of memory") from error
    finally:
        # An error leaves the lock taken, and the scorer's __del__ would wait for it for ever.
        if meteor.lock.locked():
            meteor.lock.release()
        process.stdout.close()
        process.stderr.close()


def _spice(gts: _Tokens, res: _Tokens, java: Path) -> dict[str, float]:
    from pycocoevalcap.spice.spice import Spice

    try:
        with java_first(java):
            return {"SPICE": float(Spice().compute_score(gts, res)[0])}
    except (OSError, subprocess.CalledProcessError) as error:
        raise SpiceError(
            f"its program failed ({error}); it may need Java 8, and needs 8 GB of memory and a site-packages folder "
            "that can be written to"
        ) from error
