"""The recall measure: ROUGE-1 on English, and the same idea in every other script."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from retmask.text.recall import contains, locate, pieces, recall, words

ROUGE = RougeScorer(["rouge1"], use_stemmer=True)
SCRIPTS = {
    "Cyrillic": "Секретный код от склада - синий журавль",
    "Greek": "Ο Όμηρος έζησε στη Χίο",
    "Chinese": "城北公园的三明治",
    "Japanese": "東京タワーのラーメンが好き",
    "Korean": "서울 타워에서 커피를 마신다",
    "Thai": "กินข้าวเหนียวมะม่วงที่สวน",
    "Lao": "ກິນເຂົ້າ",
    "Khmer": "ខ្ញុំស្រឡាញ់",
    "Myanmar": "မြန်မာစာ",
    "Arabic": "القطة على السطح",
    "Hebrew": "החתול על הגג",
    "Devanagari": "हिन्दी की किताब",
}


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(codec="ascii"), max_size=40), st.text(st.characters(codec="ascii"), max_size=60))
def test_on_ascii_it_is_rouge(answer: str, response: str) -> None:
    for given_response in (response, response + answer):
        assert recall(answer, given_response) == ROUGE.score(answer, given_response)["rouge1"].recall


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["the", "cats", "running", "quickly", "relational", "42", "a7", "don't", "Skies"]), max_size=9
    )
)
def test_on_english_words_it_is_rouge(response: list[str]) -> None:
    answer, text = "the cat runs relationally in 42 skies", ", ".join(response)
    assert recall(answer, text) == ROUGE.score(answer, text)["rouge1"].recall


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_an_answer_is_found_in_itself_in_every_script(text: str) -> None:
    assert recall(text, text) == 1
    assert recall(text, "nothing of the kind") == 0
    assert contains(f"zz {text} zz", text)
    assert not contains("zz zz", text)
    needle = f"zz {text} zz"
    assert locate(text, needle) == (3, 3 + len(text))


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("5 км", "5 miles", 0.5),
        ("城北公园", "城南公园", 0.75),  # a character is a unit
        ("커피를 마신다", "커피를 산다", 0.5),  # a Korean word is one
        ("2019年", "1920年", 0.5),  # a number is one
        ("cafe\u0301", "CAFÉ", 1),  # one letter, written in two ways
        ("कि", "की", 0),  # a vowel sign belongs to its letter
        ("می‌خواهم", "میخواهم", 1),  # a joiner is not to be seen
        ("!!", "!!", 0),  # no word
    ],
)
def test_recall_by_hand(answer: str, response: str, expected: float) -> None:
    assert recall(answer, response) == expected


def test_units() -> None:
    assert words("Don't! Straße") == ["don", "t", "strasse"]
    assert words("東京タワー 12") == ["東", "京", "タ", "ワ", "ー", "12"]
    assert words("ที่สวน") == ["ที่", "ส", "ว", "น"]


@pytest.mark.parametrize(
    ("text", "answer", "holds"),
    [
        ("She keeps it in a Hollow brass-owl.", "a hollow brass owl", True),
        ("It rhymes with carton.", "art", False),
        ("小林在城北公园吃三明治。", "城北公园", True),
        ("小林在城南公园吃三明治。", "城北公园", False),
        ("一共15个。", "5", False),
        ("उसने की ली", "कि", False),
        ("anything", "!!", False),
        ("", "!!", False),
        ("It is the A.", "a", True),  # an article that is all of the answer
    ],
)
def test_contains(text: str, answer: str, holds: bool) -> None:
    assert contains(text, answer) is holds


@pytest.mark.parametrize(
    ("answer", "needle", "place"),
    [
        ("Straße", "Go to Strasse 5 now.", (6, 13)),
        ("strasse", "İİ ıß Straße!", (6, 12)),  # before it, folding makes more characters
        ("ART", "The cart has art in it.", (13, 16)),
        ("art", "The cart is here.", None),
        ("城北公园", "小林在城北公园吃三明治。", (3, 7)),
        ("É", "ab e\u0301!", (3, 5)),
        ("e", "ab e\u0301!", None),
        ("ก", "กี", None),  # half of a unit
        ("", "ab", None),
    ],
)
def test_locate(answer: str, needle: str, place: tuple[int, int] | None) -> None:
    assert locate(answer, needle) == place


@given(st.text(max_size=8), st.text(max_size=5), st.text(max_size=8))
def test_what_is_located_is_the_answer(before: str, answer: str, after: str) -> None:
    place = locate(answer, before + answer + after)
    if place:
        assert words((before + answer + after)[slice(*place)]) == words(answer)


@given(st.text(max_size=30))
def test_pieces_make_up_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text.lstrip()
    assert all(piece.strip() for piece in pieces(text))


def test_pieces_are_words_or_characters() -> None:
    assert pieces("It is, so.\n No") == ["It ", "is, ", "so.\n ", "No"]
    assert pieces("他说 hello。") == ["他", "说 ", "hello。"]
