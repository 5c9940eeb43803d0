"""The error for what a person chose and cannot have."""


class OptionError(ValueError):
    """An option or a config field that cannot be followed; the text says which, why, and what else there is."""
