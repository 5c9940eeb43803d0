"""``blip2 chat``: a conversation about a picture, question by question."""

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from blip2.cli.common import (
    EXIT_FINE,
    EXIT_SOME_FAILED,
    UsageError,
    add_model_options,
    given,
    load_inferencer,
    model_errors,
    not_negative,
    positive,
    refused,
)
from blip2.cli.vqa import DEFAULT_MODEL, PUBLISHED_MODEL
from blip2.utils.pictures import is_url
from blip2.utils.resources import resolve_resource
from blip2.utils.suggest import did_you_mean

# What needs torch is imported once the arguments have proved sound.
if TYPE_CHECKING:
    from blip2.apis.inferencers import Chat, VisualQuestionAnsweringInferencer

_COMMANDS = {
    "/help": "these lines",
    "/image PATH": "go over to another picture, and begin anew",
    "/reset": "forget what was said",
    "/quit": "leave (so does Ctrl-D)",
}
_HELP = "a question, or\n" + "\n".join(f"  {command:<13}{what}" for command, what in _COMMANDS.items())

_EXAMPLES = f"""\
in the conversation:
{_HELP}

examples:
  blip2 chat demo/scene_1.png
  blip2 chat photo.jpg --model {PUBLISHED_MODEL} --precision bf16
  blip2 chat demo/scene_1.png < questions.txt      # a question a line in, an answer a line out
  blip2 chat demo/scene_1.png --turns 0            # every question on its own

exit codes: 0 all answered, 1 some lines got no answer, 2 wrong usage, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``blip2 chat``."""
    parser = argparse.ArgumentParser(
        prog="blip2 chat",
        description="Talk about a picture: with each new question the model is told the earlier ones and its answers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("image", metavar="IMAGE", help="a picture, or a web address")
    parser.add_argument(
        "--turns", type=not_negative, metavar="N", help="earlier turns that the model is told (default: all that fit)"
    )
    add_model_options(parser, DEFAULT_MODEL, batch_size=None)
    answers = parser.add_argument_group("answers (default: as the model's config says)")
    answers.add_argument("--num-beams", type=positive, metavar="N", help="beams of the search; 1 is greedy")
    answers.add_argument("--max-txt-len", type=positive, metavar="N", help="tokens of an answer at most")
    answers.add_argument("--min-length", type=positive, metavar="N", help="tokens of an answer at least")
    answers.add_argument("--prompt", metavar="TEXT", help="what the model reads, with {} for the question")
    return parser


_CALL_OPTIONS = ("num_beams", "max_txt_len", "min_length", "prompt")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        chat = _open(args)
    except UsageError as error:
        return refused("chat", error)
    failed = 0
    for line in _lines():
        try:
            if not _reply(chat, line):
                break
        except UsageError as error:
            # The conversation goes on; whoever pipes questions in learns it from the exit code.
            failed += 1
            print(f"blip2 chat: {error}", file=sys.stderr)
    return EXIT_SOME_FAILED if failed else EXIT_FINE


def _open(args: argparse.Namespace) -> "Chat":
    picture = args.image if is_url(args.image) else str(resolve_resource(args.image))
    inferencer = _load_inferencer(args)
    from blip2.apis.inferencers import Chat

    with model_errors():
        chat = Chat(inferencer, picture, max_turns=args.turns, **given(args, _CALL_OPTIONS))
    if sys.stdin.isatty():
        print(f"blip2 chat: {picture}; {', '.join(_COMMANDS)}", file=sys.stderr)
    return chat


def _load_inferencer(args: argparse.Namespace) -> "VisualQuestionAnsweringInferencer":
    from blip2.apis.inferencers import VisualQuestionAnsweringInferencer

    return load_inferencer(
        VisualQuestionAnsweringInferencer,
        args,
        command="chat",
        default=DEFAULT_MODEL,
        published=PUBLISHED_MODEL,
        **given(args, _CALL_OPTIONS),
    )


def _lines() -> Iterator[str]:
    """What the user says, line by line, empty lines left out; asked for with '> ' at a terminal only."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a stray byte in a piped file shall not end the conversation
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  # arrow keys and history for `input`
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()  # the shell's prompt shall not stand behind ours
            return
        if line:
            yield line


def _reply(chat: "Chat", line: str) -> bool:
    """Answers a question or does what a command says; False ends the conversation."""
    if line.startswith("/"):
        return _obey(chat, line)
    with model_errors("try --precision bf16"):
        reply = chat.ask(line)
    if reply.forgotten:
        print(
            f"blip2 chat: the oldest {reply.forgotten} turn(s) no longer fit into the model's positions and were left "
            "out",
            file=sys.stderr,
        )
    print(reply.answer, flush=True)
    return True


def _obey(chat: "Chat", line: str) -> bool:
    command, _, argument = line.partition(" ")
    if command == "/quit":
        return False
    if command == "/help":
        print(_HELP, file=sys.stderr)
    elif command == "/reset":
        chat.reset()
    elif command == "/image":
        if not argument.strip():
            raise UsageError("/image needs the path of a picture: /image photo.jpg")
        path = argument.strip()
        with model_errors():
            chat.show(path if is_url(path) else str(resolve_resource(path)))
    else:
        names = [name.split()[0] for name in _COMMANDS]
        raise UsageError(f"no command {command!r}.{did_you_mean(command, names, count=1)} ({', '.join(names)})")
    return True
