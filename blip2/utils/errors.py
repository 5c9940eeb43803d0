"""The errors that a user can act on: each message names the thing, the reason and the next step.

Each class is made from one message alone, because a data-loading worker's error is rebuilt from its text in the main
process.
"""

from __future__ import annotations


class ImageError(ValueError):
    """A picture that cannot be read: corrupt, truncated, empty, too large, of an unknown format.

    Attributes:
        source: the path, or what the picture was given as (empty after the error crossed a process border).
        reason: what is wrong with it, without the source and the next step.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.source = ""
        self.reason = message

    @classmethod
    def of(cls, source: str, reason: str, next_step: str) -> ImageError:
        error = cls(f"cannot read the picture {source}: {reason}. {next_step}")
        error.source, error.reason = source, reason
        return error


class MissingImageError(ImageError, FileNotFoundError):
    """A picture file that is not there."""

    __str__ = ValueError.__str__


class InputWarning(UserWarning):
    """Something about the input that commands tell as it is: texts were cut, more was asked for than there is."""


class LeftOutWarning(InputWarning):
    """Names what was left out because it cannot be used."""


class AnnotationError(ValueError):
    """An annotation file that cannot be used: not parseable, no entries, an entry without a needed field."""


class MissingAnnotationError(AnnotationError, FileNotFoundError):
    """An annotation file that is not there."""

    __str__ = ValueError.__str__


class MissingPackageError(ModuleNotFoundError):
    """A package that only some uses need, and that is not installed."""


class JavaNotFoundError(RuntimeError):
    """No Java runtime that works, which the caption scores (tokenizer and METEOR) need."""
