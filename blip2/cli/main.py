"""The ``blip2`` command: finds the subcommand and hands the rest of the line to it.

Only the chosen subcommand is imported, so that ``blip2 --help`` answers at once.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module

from blip2 import __version__
from blip2.utils.suggest import did_you_mean

# name → (module with `main(argv) -> exit code`, one line of help)
COMMANDS = {
    "caption": ("blip2.cli.caption", "caption picture files, folders or addresses"),
    "vqa": ("blip2.cli.vqa", "answer questions about a picture"),
    "chat": ("blip2.cli.chat", "talk about a picture, question by question"),
    "match": ("blip2.cli.match", "score how well texts fit a picture"),
    "search": ("blip2.cli.search", "find the pictures of a folder that fit a text or resemble a picture"),
    "demo": ("blip2.cli.demo", "try the models on a web page"),
    "explain": ("blip2.cli.explain", "draw where a word, or a query, has the model look"),
    "features": ("blip2.cli.features", "write features of pictures and texts to a file"),
    "check-dataset": ("blip2.cli.check_dataset", "look whether the data of a config are there and whole"),
    "train": ("blip2.cli.train", "train a model from a config"),
    "test": ("blip2.cli.test", "score a checkpoint on a config's test set"),
    "browse": ("blip2.cli.browse", "write a test's predictions as a page to look through"),
    "convert": ("blip2.cli.convert", "write a checkpoint in another publisher's format"),
    "scenes": ("blip2.cli.scenes", "write the small model's data: drawn scenes with captions"),
    "list": ("blip2.cli.list", "list the models that a name loads"),
    "info": ("blip2.cli.info", "tell what is known of a model"),
    "download": ("blip2.cli.download", "fetch what models need, for machines without a network"),
    "benchmark": ("blip2.cli.benchmark", "time a task here, beside the same work done another way"),
    "reproduce": ("blip2.cli.reproduce", "measure a model's published scores again"),
}

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended
EXIT_BROKEN_PIPE = 141


def help_text() -> str:
    """What ``blip2 --help`` prints."""
    rows = "\n".join(f"  {name:<15}{summary}" for name, (_, summary) in COMMANDS.items())
    return f"""\
usage: blip2 COMMAND [ARGUMENTS]

BLIP-2 from Python config files: captions for pictures, answers to questions, training, scores.

commands:
{rows}

examples:
  blip2 caption picture.jpg                      # one line: path and caption
  blip2 caption demo --json                      # a folder, as a JSON list
  blip2 caption demo --show-dir captioned        # pictures with the caption below them
  blip2 vqa picture.jpg "what is this?"          # the answer
  blip2 chat picture.jpg                         # one question after the other
  blip2 match picture.jpg "a cat" "a dog"        # two scores for each text
  blip2 search photos "a dog"                    # the pictures that fit best
  blip2 explain picture.jpg "a cat"              # a heat map for each word
  blip2 list                                     # the models that --model takes
  blip2 download NAME                            # weights, tokenizer, language model, before they are needed
  blip2 train CONFIG --work-dir work_dirs/mine
  blip2 test CONFIG CHECKPOINT
  blip2 check-dataset CONFIG                     # before a long run: is all there?
  blip2 reproduce NAME                           # measured beside published

  blip2 COMMAND --help    the options of a command
  blip2 --version         the installed version
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (0 fine, 1 partly failed, 2 wrong usage, 130 interrupted)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments:
        print(help_text(), end="", file=sys.stderr)
        return EXIT_USAGE
    name, rest = arguments[0], arguments[1:]
    if name in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if name in ("-V", "--version"):
        print(f"blip2 {__version__}")
        return 0
    if name not in COMMANDS:
        print(_unknown(name), file=sys.stderr)
        return EXIT_USAGE
    return _guarded(name, rest)


def _guarded(name: str, arguments: list[str]) -> int:
    try:
        command: Callable[[list[str]], int] = import_module(COMMANDS[name][0]).main
        code = command(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse ends this way, after --help too
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nblip2 {name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a closed pager) has gone; Python's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _unknown(name: str) -> str:
    if name.startswith("-"):
        return f"blip2: unknown option {name!r}; a command comes first: {', '.join(COMMANDS)} (blip2 --help)"
    if os.path.exists(name):
        return f"blip2: no command {name!r}; to caption it: blip2 caption {name}"
    if hint := did_you_mean(name, COMMANDS, count=1):
        return f"blip2: no command {name!r}.{hint} (all: {', '.join(COMMANDS)})"
    return f"blip2: no command {name!r}; the commands are {', '.join(COMMANDS)} (blip2 --help)"


if __name__ == "__main__":
    sys.exit(main())
