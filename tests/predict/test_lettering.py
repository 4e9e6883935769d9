"""Names on pictures: as they are where a font has the letters, legible where none has."""

import pytest
from PIL import ImageFont

from esam_jax.predict import lettering

PLAIN = "IMG_0042 (1).jpg"


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lettering, "_of_the_system", lambda px: [])


def test_plain_names_look_the_same_on_every_machine():
    shown, font = lettering.fitting(PLAIN, 13)
    assert shown == PLAIN and font.getname() == ImageFont.load_default(size=13).getname()


@pytest.mark.usefixtures("no_system_fonts")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Grüße.jpg", "Gru?e.jpg"),
        ("cafe\u0301.png", "cafe.png"),
        ("日本.jpg", "??.jpg"),
        ("two\nlines\x1b.jpg", "two?lines?.jpg"),
    ],
)
def test_a_letter_of_no_font_loses_its_accent_or_is_a_question_mark(name: str, shown: str):
    assert lettering.fitting(name, 13)[0] == shown


def test_the_font_that_has_most_letters_is_taken(monkeypatch: pytest.MonkeyPatch):
    """Fonts that are not installed here: which letters each has is stated."""
    fonts = {"own": "abc", "latin": "abcü", "east": "abcü日", "last": "abcü日本"}
    monkeypatch.setattr(lettering, "_own", lambda px: "own")
    monkeypatch.setattr(lettering, "_of_the_system", lambda px: ["latin", "east", "last"])
    monkeypatch.setattr(lettering, "_has", lambda font, letter: letter in fonts[font] + "u?")
    assert lettering.fitting("abc", 13) == ("abc", "own")
    assert lettering.fitting("aü", 13) == ("aü", "latin")
    assert lettering.fitting("au\u0308日", 13) == ("aü日", "east")
    assert lettering.fitting("日x日", 13) == ("日?日", "east")
    assert lettering.fitting("日本", 13) == ("日本", "last")


def test_a_system_font_with_umlauts_is_used_where_there_is_one():
    fonts = lettering._of_the_system(13)
    if not fonts:
        pytest.skip("no font of the list is installed here")
    assert lettering.fitting("Grüße.jpg", 13)[0] == "Grüße.jpg"
