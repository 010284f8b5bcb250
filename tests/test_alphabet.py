import unicodedata

import pytest

from handwriting.alphabet import BLANK, VIETNAMESE, Alphabet
from handwriting.errors import AlphabetError


def test_vietnamese_is_the_tutorials_207_characters_all_composed():
    assert len(VIETNAMESE) == len(set(VIETNAMESE)) == 207
    assert unicodedata.normalize("NFC", VIETNAMESE) == VIETNAMESE
    assert VIETNAMESE.startswith("aáàạảã") and VIETNAMESE.endswith("0123456789 .,-/()'#+:")


def test_capitals_of_all_small_letters_are_there_and_the_other_way_round():
    letters = {c for c in VIETNAMESE if c.isalpha()}
    assert {c.swapcase() for c in letters} == letters


def test_characters_and_ids_are_a_bijection_that_leaves_out_the_blank():
    alphabet = Alphabet(VIETNAMESE)
    ids = alphabet.encode(VIETNAMESE)
    assert sorted(ids) == list(range(1, alphabet.classes)) and BLANK not in ids
    assert alphabet.decode(ids) == VIETNAMESE
    assert (len(alphabet), alphabet.classes) == (207, 208)


def test_ids_follow_the_order_of_the_characters():
    assert Alphabet("ba").encode("abb") == [2, 1, 1]
    assert Alphabet("ba").decode([2, 1, 1]) == "abb"


def test_no_text_and_no_ids_are_each_other():
    assert Alphabet("a").encode("") == [] and Alphabet("a").decode([]) == ""


@pytest.mark.parametrize("characters, said", [
    ("", "empty"),
    ("abcb", r"'b' \(U\+0062\) more than once"),
    ("aa bb", r"'a' \(U\+0061\), 'b' \(U\+0062\) more than once"),
    ("a\u0301", r"U\+0301.*NFC"),
    ("e\u0302\u0301", r"U\+0302.*NFC"),
    ("a\u212b", r"U\+212B.*NFC"),
    ("\u0344a", r"U\+0344.*NFC"),
])
def test_unusable_alphabets_are_refused_by_code_point(characters, said):
    with pytest.raises(AlphabetError, match=said):
        Alphabet(characters)


@pytest.mark.parametrize("text, code_points", [
    ("cafß", ["U+00DF"]), ("a😀b😀", ["U+1F600"]), ("a\u0301", ["U+0301"]), ("ωa\u200bω", ["U+03C9", "U+200B"]),
])
def test_unknown_characters_are_named_once_each_in_order(text, code_points):
    alphabet = Alphabet(VIETNAMESE)
    with pytest.raises(AlphabetError) as caught:
        alphabet.encode(text)
    assert [word.strip("();,") for word in str(caught.value).split() if "U+" in word] == code_points
    assert [f"U+{ord(c):04X}" for c in alphabet.unknown(text)] == code_points


def test_a_known_text_has_no_unknown_characters():
    assert Alphabet(VIETNAMESE).unknown("Số 3 Nguyễn Ngọc Vũ, Hà Nội") == []


@pytest.mark.parametrize("ids", [[0], [1, 0, 1], [4], [-1], [1, 2, 99]])
def test_ids_that_stand_for_no_character_are_refused(ids):
    with pytest.raises(AlphabetError, match="alphabet of 3"):
        Alphabet("abc").decode(ids)


def test_the_alphabet_of_texts_holds_each_of_their_characters_in_code_point_order():
    assert Alphabet.of_texts(["ba", "ắa ", "b"]) == Alphabet(" abắ")


@pytest.mark.parametrize("texts", [[], [""]])
def test_there_is_no_alphabet_of_no_text(texts):
    with pytest.raises(AlphabetError, match="empty"):
        Alphabet.of_texts(texts)
