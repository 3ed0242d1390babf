"""Teachers against a real server of the protocol, `transformers serve`, with a small model of random weights."""

import pytest

from c2s.teachers.cache import Answer, Request
from c2s.teachers.client import Failure, Teacher
from c2s.teachers.config import TeacherConfig
from c2s.teachers.paraphrase import paraphrase_requests, paraphrases


@pytest.fixture
def config(served):
    return TeacherConfig(
        base_url=served.url,
        model=served.model,
        max_tokens=64,
        concurrency=2,
        requests_per_minute=None,
    )


@pytest.fixture
def tokenizer(served):
    from c2s.tokens.tokenizer import load_tokenizer

    return load_tokenizer(served.folder)


def test_paraphrases_come_differ_and_are_kept(config, abstracts, tmp_path):
    teacher = Teacher(config, tmp_path)
    requests = paraphrase_requests(abstracts, 3)
    assert teacher.estimate(requests).requests == 6
    done = []
    first = paraphrases(abstracts, 3, teacher, done.append)
    assert list(first) == list(abstracts)
    assert sum(done) == 6
    for study, texts in first.items():
        assert len({*texts, abstracts[study]}) == 4, (
            "three texts that differ, also from the abstract"
        )
        assert all(text.strip() for text in texts)
    assert teacher.estimate(requests).requests == 0
    # Nobody listens there: whatever comes, comes from the cache.
    elsewhere = Teacher(config.model_copy(update={"base_url": "http://127.0.0.1:9/v1"}), tmp_path)
    assert paraphrases(abstracts, 3, elsewhere) == first


def test_tokens_are_counted_as_the_endpoint_counts_them(config, tokenizer, abstracts, tmp_path):
    teacher = Teacher(config, tmp_path, tokenizer=tokenizer)
    request = Request("study 'Baron'", (("user", abstracts["Baron"]),))
    answer = teacher.ask([request])[0]
    assert isinstance(answer, Answer)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": abstracts["Baron"]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert answer.input_tokens == len(tokenizer(whole)["input_ids"])
    around = len(tokenizer("user: ")["input_ids"]) + len(tokenizer("\nassistant: ")["input_ids"])
    assert 0 <= answer.input_tokens - teacher.count(request) <= around
    assert 0 < answer.output_tokens <= 64


def test_an_answer_that_the_limit_cut_says_so(config, tmp_path):
    teacher = Teacher(config.model_copy(update={"max_tokens": 4}), tmp_path)
    answer = teacher.ask([Request("s", (("user", "hello"),))])[0]
    assert (answer.finish, answer.output_tokens) == ("length", 4)


def test_what_the_server_objects_to_is_passed_on(config, tmp_path):
    teacher = Teacher(config.model_copy(update={"model": "another"}), tmp_path)
    outcome = teacher.ask([Request("study 'Baron'", (("user", "hello"),))])[0]
    assert outcome == Failure("study 'Baron'", outcome.reason)
    assert outcome.reason.startswith("HTTP 400: Server is pinned to")
