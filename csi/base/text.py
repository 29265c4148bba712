"""Makes text for people printable on one line, whoever has chosen the names in it."""


def printable(text: str) -> str:
    """``text`` with escapes in place of all that a terminal or a log would not show as a character of one line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", errors="replace").decode()
        for character in text
    )


def counted(count: int, noun: str) -> str:
    """A number and what there is so many of, for example ``1 file`` or ``1,234 files``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
