"""``blip2 vqa``: answers to questions about a picture."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2.cli.common import (
    UsageError,
    add_model_options,
    add_output_options,
    collect_pictures,
    ended,
    given,
    load_inferencer,
    model_errors,
    positive,
    progress,
    refused,
    writer_for,
)
from blip2.cli.output import Failure, Writer

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from blip2.apis.inferencers import Prediction, VisualQuestionAnsweringInferencer

# ``blip2 chat`` takes these too.
DEFAULT_MODEL = "blip2-tiny_shapes-vqa"
PUBLISHED_MODEL = "blip2-opt2.7b_3rdparty-zeroshot_vqa"

_EXAMPLES = f"""\
examples:
  blip2 vqa demo/scene_1.png "what colour is the circle?"
  blip2 vqa demo/scene_1.png "is there a square?" "how many shapes are there?"
  blip2 vqa demo "is there a circle?" --answers yes,no --json      # a folder; the scores of both answers
  blip2 vqa photo.jpg "what is this?" --answers-file animals.txt   # one candidate a line
  blip2 vqa photo.jpg "what is this?" --model {PUBLISHED_MODEL} --precision bf16
  blip2 chat photo.jpg                                             # one question after the other

exit codes: 0 all answered, 1 some pictures failed (named at the end), 2 wrong usage, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``blip2 vqa``."""
    parser = argparse.ArgumentParser(
        prog="blip2 vqa",
        description="Answer questions about a picture. By default the answer alone is written; for several questions\n"
        "a line 'question answer' each; for several pictures with 'path: ' before it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="IMAGE", help="a picture, a folder of pictures, or a web address")
    parser.add_argument("questions", nargs="+", metavar="QUESTION", help="asked about every picture")
    parser.add_argument("-r", "--recursive", action="store_true", help="look into the subfolders of a folder too")
    add_model_options(parser, DEFAULT_MODEL)
    answers = parser.add_argument_group("answers (default: in free words, as the model's config says)")
    candidates = answers.add_mutually_exclusive_group()
    candidates.add_argument("--answers", metavar="A,B,…", help="choose the likeliest of these")
    candidates.add_argument("--answers-file", metavar="FILE", help="choose among the lines of this file")
    answers.add_argument("--num-beams", type=positive, metavar="N", help="beams of the search; 1 is greedy")
    answers.add_argument("--max-txt-len", type=positive, metavar="N", help="tokens of an answer at most")
    answers.add_argument("--min-length", type=positive, metavar="N", help="tokens of an answer at least")
    answers.add_argument("--prompt", metavar="TEXT", help="what the model reads, with {} for the question")
    add_output_options(parser, "path, question, answer and score", "questions and answers below it")
    return parser


_CALL_OPTIONS = ("num_beams", "max_txt_len", "min_length", "prompt", "show_dir")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        _check_questions(args.questions)
        candidates = _candidates(args)
        inputs, failures = collect_pictures([args.path], "ask about", recursive=args.recursive)
        options = given(args, _CALL_OPTIONS)
        if candidates is not None:
            options["answers"] = candidates
        inferencer = _load_inferencer(args, options)
        with writer_for(args) as writer:
            failures += _answer(args, inferencer, inputs, options, writer)
    except UsageError as error:
        return refused("vqa", error)
    return ended("vqa", failures)


def _check_questions(questions: list[str]) -> None:
    for number, question in enumerate(questions, start=1):
        if not question.strip():
            raise UsageError(f"question {number} is empty ({question!r}): there is nothing to answer")


def _candidates(args: argparse.Namespace) -> list[str] | None:
    """The answers to choose from, without repetitions; None for free words."""
    if args.answers is not None:
        source, texts = f"--answers {args.answers!r}", args.answers.split(",")
    elif args.answers_file is not None:
        source = args.answers_file
        try:
            texts = Path(source).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
            raise UsageError(f"cannot read the answers in {source}: {reason}") from error
    else:
        return None
    answers = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not answers:
        form = "one a line" if args.answers is None else "with commas between them"
        raise UsageError(f"{source} has no answer to choose from; give some, {form}")
    return answers


def _load_inferencer(args: argparse.Namespace, options: dict[str, Any]) -> "VisualQuestionAnsweringInferencer":
    from blip2.apis.inferencers import VisualQuestionAnsweringInferencer

    return load_inferencer(
        VisualQuestionAnsweringInferencer,
        args,
        command="vqa",
        default=DEFAULT_MODEL,
        published=PUBLISHED_MODEL,
        **options,
    )


def _answer(
    args: argparse.Namespace,
    inferencer: "VisualQuestionAnsweringInferencer",
    inputs: list[str],
    options: dict[str, Any],
    writer: Writer,
) -> list[Failure]:
    """Answers all questions about all `inputs` into `writer`; returns the pictures that failed."""
    failures: list[Failure] = []
    asked = [args.questions] * len(inputs)
    with progress(len(inputs), "answering") as advance, model_errors():
        for prediction in inferencer.stream(inputs, args.batch_size, num_workers=2, questions=asked, **options):
            if prediction.data_sample is None:
                failures.append(Failure(prediction.name, str(prediction.error)))
                for question in args.questions:
                    writer.fail(failures[-1], question=question, answer=None, score=None)
            else:
                _write(prediction, inferencer, len(inputs) > 1, writer)
            advance()
    return failures


def _write(
    prediction: "Prediction", inferencer: "VisualQuestionAnsweringInferencer", several: bool, writer: Writer
) -> None:
    results = inferencer.results(prediction)
    for result in results:
        question, answer = result["question"], result["pred_answer"]
        record = {"path": prediction.name, "question": question, "answer": answer, "score": result["pred_score"]}
        if "answer_scores" in result:
            record["answer_scores"] = result["answer_scores"]
        line = f"{question} {answer}" if len(results) > 1 else answer
        writer.add(record, [f"{prediction.name}: {line}" if several else line])
