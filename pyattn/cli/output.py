"""Text for a terminal, which no file and no model may steer."""


def printable(text: str) -> str:
    """The text on one line and without control characters."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def safe(text: str) -> str:
    """The text with its line breaks and tabs, without other control characters."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
