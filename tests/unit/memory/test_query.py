from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.memory.query import MAX_TERMS, enough, fts_query, like_pattern, search_terms


@pytest.fixture(scope="module")
def index():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'porter unicode61')")
    connection.execute("INSERT INTO words VALUES ('roll back the production database')")
    yield connection
    connection.close()


def matches(index: sqlite3.Connection, text: str) -> bool:
    query = fts_query(search_terms(text))
    return bool(query) and index.execute("SELECT 1 FROM words WHERE words MATCH ?", (query,)).fetchone() is not None


def test_words_are_joined_by_or_and_the_last_is_a_prefix() -> None:
    assert fts_query(search_terms('how do we roll back "prod"?')) == '"roll" OR "back" OR "prod"*'


def test_a_question_full_of_other_words_still_finds_the_row(index) -> None:
    assert matches(index, "Could you please tell me which database we use for invoices?")


def test_the_last_word_matches_while_it_is_being_typed(index) -> None:
    assert matches(index, "produc")


def test_stop_words_are_searched_when_nothing_else_was_said() -> None:
    assert search_terms("to be or not to be") == ["to", "be", "or", "not"]


def test_text_without_any_word_searches_nothing() -> None:
    assert fts_query(search_terms(' " * ( ) : - ')) == ""


def test_a_long_prompt_is_cut_to_a_bounded_number_of_terms() -> None:
    assert len(search_terms(" ".join(f"word{n}" for n in range(500)))) == MAX_TERMS


@given(st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from('"*():-^+{}[]~\x00 AND OR NOT NEAR'))))
def test_no_text_is_ever_a_syntax_error(text: str) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'porter unicode61')")
        matches(connection, text)
    finally:
        connection.close()


@pytest.mark.parametrize("word", ['"', "*", "(", ")", ":", "-", "a AND", "NEAR(", "title:x", "^x", "x*y", '""""'])
def test_syntax_characters_are_only_characters(index, word: str) -> None:
    assert matches(index, f"{word} database")


def test_pattern_characters_in_a_topic_are_taken_literally() -> None:
    assert like_pattern("a%b_c\\") == "%a\\%b\\_c\\\\%"


def test_text_without_spaces_is_searched_by_pairs_of_characters() -> None:
    assert search_terms("k8s部署流程、回滚") == ["k8s", "部署", "署流", "流程", "回滚"]
    assert fts_query(["部署"]) == '"部 署"*'


@pytest.mark.parametrize(("terms", "needed"), [(1, 1), (2, 1), (3, 2), (7, 2), (8, 3), (48, 3)])
def test_a_long_question_needs_more_than_one_word_in_common(terms: int, needed: int) -> None:
    assert enough(terms) == needed
