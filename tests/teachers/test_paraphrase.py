"""Paraphrases: how many, which answers are used, what is asked again, what is reported."""

import pytest

from c2s.common.errors import C2SError, C2SWarning, InputError, UsageError
from c2s.teachers.paraphrase import STYLES, clean, paraphrase_requests, paraphrases


def prompt(body):
    return body["messages"][0]["content"]


def style(body):
    return next(i for i, words in enumerate(STYLES) if words in prompt(body))


def test_styles_and_samples_of_the_questions(abstracts):
    requests = paraphrase_requests(abstracts, 12)
    assert len(requests) == 24
    assert [r.sample for r in requests] == [*range(12), *range(12)]
    for i, request in enumerate(requests[:12]):
        ((role, text),) = request.messages
        assert role == "user"
        assert STYLES[i % 10] in text
        assert text.endswith("\n\n" + abstracts["Baron"])
        assert request.label == "study 'Baron'"
    assert len({r.messages for r in requests}) == 20
    assert len(set(STYLES)) == len(STYLES) == 10


def test_a_prompt_takes_any_abstract(endpoint, make_teacher, completion):
    endpoint.reply = lambda number, body: (200, completion("x"), {})
    assert paraphrases({"A": "uses {style} and {0} %s"}, 1, make_teacher()) == {"A": ["x"]}
    assert prompt(endpoint.requests[0]).endswith("uses {style} and {0} %s")


def test_order_is_of_studies_and_numbers_whatever_comes_first(
    endpoint, make_teacher, completion, abstracts
):
    endpoint.reply = lambda number, body: (
        200,
        completion(f"{style(body)} {prompt(body)[-9:]}"),
        {},
    )
    one = paraphrases(abstracts, 10, make_teacher(cache="one"))
    many = paraphrases(abstracts, 10, make_teacher(cache="many", concurrency=8))
    assert one == many
    assert list(one) == ["Baron", "Zuo"]
    assert one["Zuo"] == [f"{i} {abstracts['Zuo'][-9:].strip()}" for i in range(10)]


def test_more_paraphrases_ask_only_for_the_new_ones(endpoint, make_teacher, abstracts):
    few = paraphrases(abstracts, 3, make_teacher())
    assert len(endpoint.requests) == 6
    more = paraphrases(abstracts, 5, make_teacher())
    assert len(endpoint.requests) == 10
    assert {study: texts[:3] for study, texts in more.items()} == few


@pytest.mark.parametrize(
    "bad",
    ["", " \n", "...", "<think>hm</think>", "<think>never done", "ABSTRACT   words", "“Abstract, words.”", "Good"],
)  # fmt: skip
def test_an_answer_that_cannot_be_used_is_asked_for_again(endpoint, make_teacher, completion, bad):
    texts = {0: "good", 1: bad, 1_000_001: "better"}
    seeds = {}

    def reply(number, body):
        sample = seeds.setdefault(body["seed"], len(seeds))
        return 200, completion([texts[0], texts[1], texts[1_000_001]][sample]), {}

    endpoint.reply = reply
    done = []
    assert paraphrases({"A": "Abstract words."}, 2, make_teacher(), done.append) == {
        "A": ["good", "better"]
    }
    assert len(endpoint.requests) == 3
    assert prompt(endpoint.requests[1]) == prompt(endpoint.requests[2])
    assert sum(done) == 2


def test_two_equal_answers_keep_the_first(endpoint, make_teacher, completion):
    endpoint.reply = lambda number, body: (
        200,
        completion("same" if number < 3 else f"new {number}"),
        {},
    )
    assert paraphrases({"A": "a"}, 3, make_teacher()) == {"A": ["same", "new 3", "new 4"]}


def test_the_same_answer_for_two_studies_is_fine(endpoint, make_teacher, completion):
    endpoint.reply = lambda number, body: (200, completion("same"), {})
    assert paraphrases({"A": "a", "B": "b"}, 1, make_teacher()) == {"A": ["same"], "B": ["same"]}


def test_what_is_never_usable_is_reported_and_not_asked_for_on_the_next_run(
    endpoint, make_teacher, completion
):
    def reply(number, body):
        cut = style(body) == 1
        return 200, completion(f"text {style(body)}", "length" if cut else "stop"), {}

    endpoint.reply = reply
    said = "study 'A': 2 of 3 paraphrases; answers that were not used: 4 × cut off at max_tokens; raise max_tokens = 1024"
    for _ in range(2):
        with pytest.warns(C2SWarning) as caught:
            assert paraphrases({"A": "a"}, 3, make_teacher()) == {"A": ["text 0", "text 2"]}
        assert [str(w.message) for w in caught] == [said]
        assert caught[0].filename == __file__
        assert len(endpoint.requests) == 6, "three, and one of them three times more"
        assert len({body["seed"] for body in endpoint.requests}) == 6


def test_a_failing_study_is_named_and_the_others_are_kept(
    endpoint, make_teacher, completion, abstracts
):
    studies = {"Bad": "bad", **abstracts, "Worse": "worse"}

    def reply(number, body):
        if prompt(body).endswith(("\nbad", "\nworse")):
            return 400, {"error": {"message": "context too long"}}, {}
        return 200, completion(f"{number}"), {}

    endpoint.reply = reply
    with pytest.raises(C2SError) as caught:
        paraphrases(studies, 2, make_teacher())
    said = str(caught.value)
    assert said.startswith(
        f"teacher {endpoint.url}: study 'Bad': HTTP 400: context too long; failed too: 'Worse'; all"
    )
    assert "\n" not in said
    assert len(endpoint.requests) == 8
    endpoint.reply = lambda number, body: (200, completion(f"{number}"), {})
    found = paraphrases(studies, 2, make_teacher())
    assert len(endpoint.requests) == 12, "only what had failed"
    assert found["Bad"] == ["8", "9"]
    assert list(found) == list(studies)


def test_nothing_to_do_and_what_cannot_be_done(endpoint, make_teacher):
    assert paraphrases({}, 3, make_teacher()) == {}
    with pytest.raises(UsageError, match="paraphrases = 0: must be between 1"):
        paraphrases({"A": "a"}, 0, make_teacher())
    with pytest.raises(InputError, match="study 'A': the abstract is empty"):
        paraphrases({"A": "\n"}, 1, make_teacher())
    assert not endpoint.requests


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("  two\n\nlines ", "two lines"),
        ('"quoted"', "quoted"),
        ("« gene X »", "gene X"),
        ('"A" and "B"', '"A" and "B"'),
        ("it's'", "it's'"),
        ("<think>a\nb</think>\nc <think>d</think>e", "c e"),
        ('""', '""'),
    ],
)
def test_clean(said, kept):
    assert clean(said) == kept
