"""What a text is everywhere in this project: NFC, one kind of blank, nothing invisible."""

import unicodedata

# Cc control, Cf zero-width and direction marks, Cs halves of a surrogate pair, which no UTF-8 file can hold
INVISIBLE = {"Cc", "Cf", "Cs"}


def clean_text(text: str) -> str:
    """Returns `text` as a picture can show it.

    Invisible characters are dropped, every run of Unicode white space becomes one blank, blanks at the ends go, and
    the rest is composed (NFC). Composing comes last: a zero-width character may stand between a letter and its accent.
    """
    visible = "".join(char for char in text if char.isspace() or unicodedata.category(char) not in INVISIBLE)
    return unicodedata.normalize("NFC", " ".join(visible.split()))
