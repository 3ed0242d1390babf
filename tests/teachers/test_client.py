"""`Teacher` against a scripted server on this machine: cache, retries, limits, failures, estimates."""

import json
import sys
import threading
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import C2SError, InputError, UsageError
from c2s.teachers.cache import Answer, Request
from c2s.teachers.client import Failure, Teacher, read_completion, retry_after
from c2s.teachers.config import TeacherConfig

ERROR = {"error": {"message": "the server is\nupset", "code": "x"}}


def answers_file(teacher, request):
    return teacher.cache.path(teacher.key(request))


# --- what is sent and what comes back ---------------------------------------------------------


def test_request_and_answer(endpoint, make_teacher, question, completion):
    endpoint.reply = lambda number, body: (200, completion("hello", usage=(5, 2)), {})
    teacher = make_teacher(temperature=0.5, top_p=0.9, max_tokens=77)
    assert teacher.ask([question(1)]) == [Answer("hello", "stop", 5, 2)]
    (body,) = endpoint.requests
    assert endpoint.paths == ["/v1/chat/completions"]
    assert 0 <= body.pop("seed") < 2**31
    assert body == {
        "model": "m", "messages": [{"role": "user", "content": "question 1"}],
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 77,
    }  # fmt: skip


def test_what_is_left_to_the_endpoint_is_not_sent(endpoint, make_teacher, question, completion):
    endpoint.reply = lambda number, body: (200, completion("hello"), {})
    make_teacher(temperature=None, seed=None, max_tokens_field="max_completion_tokens").ask(
        [question(1)]
    )
    assert set(endpoint.requests[0]) == {"model", "messages", "max_completion_tokens"}


def test_seeds_differ_between_samples_and_follow_the_seed(endpoint, make_teacher, question):
    questions = [question(1, sample) for sample in range(5)]
    make_teacher(seed=3, cache="a").ask(questions)
    make_teacher(seed=3, cache="b").ask(questions)
    make_teacher(seed=4, cache="c").ask(questions)
    seeds = [body["seed"] for body in endpoint.requests]
    assert len(set(seeds[:5])) == 5
    assert seeds[:5] == seeds[5:10]
    assert not set(seeds[:5]) & set(seeds[10:])


def test_outcomes_stand_in_the_order_of_the_questions(endpoint, make_teacher, question, completion):
    gate = threading.Event()

    def reply(number, body):
        text = body["messages"][0]["content"]
        if text == "question 0":  # the first is answered last
            gate.wait(10)
        elif text == "question 3":
            gate.set()
        return 200, completion("to " + text), {}

    endpoint.reply = reply
    outcomes = make_teacher(concurrency=2).ask([question(i) for i in range(4)])
    assert [o.text for o in outcomes] == [f"to question {i}" for i in range(4)]


def test_as_many_requests_at_a_time_as_allowed(endpoint, make_teacher, question, completion):
    together = threading.Barrier(3)  # breaks, and the requests fail, unless three are under way
    lock, now, most = threading.Lock(), 0, 0

    def reply(number, body):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(20)
        with lock:
            now -= 1
        return 200, completion("x"), {}

    endpoint.reply = reply
    outcomes = make_teacher(concurrency=3, max_retries=0).ask([question(i) for i in range(9)])
    assert all(isinstance(o, Answer) for o in outcomes)
    assert most == 3


def test_progress_counts_every_question(endpoint, make_teacher, question):
    teacher, done = make_teacher(), []
    teacher.ask([question(0)])
    teacher.ask([question(0), question(1), question(2), question(2)], done.append)
    assert sum(done) == 4


# --- the key ----------------------------------------------------------------------------------


def test_key_is_sent_and_left_nowhere(endpoint, make_teacher, question, monkeypatch, tmp_path):
    monkeypatch.setenv("TEACHER_KEY", " sk-secret-1234 \n")
    teacher = make_teacher(api_key_env="TEACHER_KEY")
    teacher.ask([question(1)])
    assert endpoint.headers[0]["authorization"] == "Bearer sk-secret-1234"
    endpoint.reply = lambda number, body: (
        400,
        {"error": {"message": "bad key sk-secret-1234"}},
        {},
    )
    (failure,) = teacher.ask([question(2)])
    assert failure.reason == "HTTP 400: bad key ***"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files
    assert not any(b"sk-secret" in p.read_bytes() for p in files)


def test_without_a_key_none_of_the_environment_is_sent(
    endpoint, make_teacher, question, monkeypatch
):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "private")
    make_teacher().ask([question(1)])
    assert "private" not in json.dumps(endpoint.headers)


@pytest.mark.parametrize("value", [None, "  ", "sch\u00fcssel", "a\nb"])
def test_a_missing_or_broken_key_is_said_before_anything_is_sent(
    endpoint, make_teacher, question, monkeypatch, value
):
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(UsageError, match="environment variable TEACHER_KEY") as caught:
        make_teacher(api_key_env="TEACHER_KEY").ask([question(1)])
    assert value is None or not value.strip() or value not in str(caught.value)
    assert not endpoint.requests


def test_without_the_sdk_the_extra_is_named(make_teacher, question, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UsageError, match=r"pip install 'c2s-toolkit\[teacher\]'"):
        make_teacher().ask([question(1)])


# --- the cache --------------------------------------------------------------------------------


def test_a_question_is_asked_once(endpoint, make_teacher, question, monkeypatch):
    twice = [question(1), question(1), question(2)]
    first = make_teacher().ask(twice)
    assert len(endpoint.requests) == 2
    assert first[0] == first[1]
    # Without network, key and SDK.
    monkeypatch.setitem(sys.modules, "openai", None)
    again = make_teacher(base_url="http://127.0.0.1:9/v1", api_key_env="NOT_SET_ANYWHERE").ask(
        twice
    )
    assert again == first


@pytest.mark.parametrize(
    "changes",
    [{"model": "n"}, {"temperature": 0.1}, {"top_p": 0.5}, {"max_tokens": 5}, {"seed": 9}, {"seed": None}],
    ids=str,
)  # fmt: skip
def test_another_model_or_sampling_is_another_question(make_teacher, question, changes):
    assert make_teacher(**changes).key(question(1)) != make_teacher().key(question(1))


def test_key_depends_on_what_is_asked_alone(make_teacher, question):
    teacher = make_teacher()
    one = question(1)
    assert teacher.key(Request("another label", one.messages, one.sample)) == teacher.key(one)
    assert teacher.key(question(1, sample=1)) != teacher.key(one)
    assert teacher.key(question(2)) != teacher.key(one)
    assert teacher.key(Request("x", (("system", "question 1"),))) != teacher.key(one)
    elsewhere = make_teacher(
        base_url="http://127.0.0.1:9/v1", concurrency=7, api_key_env="SOME_KEY"
    )
    assert elsewhere.key(one) == teacher.key(one)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def _alter(path):
    path.write_text(path.read_text().replace("answer to", "Answer to"))


def _other(path):
    path.write_text("[1]")


def _swap(path):
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "key": "0" * 64}))


@pytest.mark.parametrize(
    "damage", [_cut, _alter, _other, _swap, lambda p: p.write_bytes(b"\xff\x00")]
)
def test_a_damaged_file_is_asked_for_again(endpoint, make_teacher, question, damage):
    teacher = make_teacher()
    first = teacher.ask([question(1), question(2)])
    path = answers_file(teacher, question(1))
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    assert teacher.estimate([question(1), question(2)]).requests == 1
    assert teacher.ask([question(1), question(2)]) == first
    assert len(endpoint.requests) == 3
    assert path.read_bytes() == whole, "the same answer leaves the same bytes"


def test_interrupted_work_goes_on(endpoint, make_teacher, question):
    questions = [question(i) for i in range(6)]
    done = 0

    def interrupt(n):
        nonlocal done
        done += n
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_teacher().ask(questions, interrupt)
    sent = len(endpoint.requests)
    assert 2 <= sent < 6
    outcomes = make_teacher().ask(questions)
    assert all(isinstance(o, Answer) for o in outcomes)
    assert len(endpoint.requests) == 6, "no question twice"


def test_a_place_for_answers_that_cannot_be_made_is_said_before_anything_is_sent(
    endpoint, make_teacher, question, tmp_path
):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the folder for the teacher's answers cannot be made"):
        make_teacher(cache="file/answers").ask([question(1)])
    assert not endpoint.requests


# --- retries and failures ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "headers", "pauses"),
    [
        (429, {"Retry-After": "17"}, [(17, 17)]),
        (503, {"Retry-After": "0.5"}, [(0.5, 0.5)]),
        (429, {"retry-after-ms": "2500", "Retry-After": "3"}, [(2.5, 2.5)]),
        (429, {}, [(0.5, 1)]),
        (500, {}, [(0.5, 1)]),
        (408, {}, [(0.5, 1)]),
        (None, {}, [(0.5, 1)]),
    ],
)
def test_what_may_pass_is_sent_again(
    endpoint, make_teacher, question, completion, clock, code, headers, pauses
):
    endpoint.reply = lambda n, body: (
        (code, ERROR, headers) if n == 0 else (200, completion("x"), {})
    )
    assert make_teacher().ask([question(1)]) == [Answer("x", "stop", 11, 7)]
    assert len(endpoint.requests) == 2
    assert endpoint.requests[0] == endpoint.requests[1]
    assert len(clock.sleeps) == len(pauses)
    assert all(low <= s <= high for s, (low, high) in zip(clock.sleeps, pauses, strict=True))


def test_pauses_double_up_to_a_minute_and_repeat_exactly(endpoint, make_teacher, question, clock):
    endpoint.reply = lambda number, body: (500, ERROR, {})
    (failure,) = make_teacher(max_retries=8).ask([question(1)])
    assert failure == Failure("study 'S1'", "HTTP 500: the server is upset (asked 9 times)")
    whole = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(w / 2 <= s <= w for s, w in zip(clock.sleeps, whole, strict=True))
    first = list(clock.sleeps)
    make_teacher(max_retries=8).ask([question(1)])
    assert clock.sleeps == first * 2
    make_teacher(max_retries=8).ask([question(2)])
    assert clock.sleeps[16:] != first, "questions that failed together do not come back together"


def test_a_pause_holds_the_other_threads_too(endpoint, question, completion, clock, tmp_path):
    paused, seen = threading.Event(), threading.Event()
    sleeps = []

    def reply(number, body):
        text = body["messages"][0]["content"]
        if text == "question 0" and not sleeps:
            return 429, ERROR, {"Retry-After": "100"}
        if text == "question 1":  # answered during the pause, so that its thread takes question 2
            paused.wait(20)
        elif text == "question 2":
            seen.set()
        return 200, completion("x"), {}

    def sleep(seconds):
        sleeps.append(seconds)
        if len(sleeps) == 1:
            paused.set()
            seen.wait(20)
            clock.now += seconds
        else:
            seen.set()

    endpoint.reply = reply
    config = TeacherConfig(
        base_url=endpoint.url, model="m", concurrency=2, requests_per_minute=None
    )
    teacher = Teacher(config, tmp_path, clock=clock, sleep=sleep)
    teacher.ask([question(i) for i in range(3)])
    assert sleeps == [100, 100]


def test_who_waits_for_another_attempt_does_not_make_it_after_a_stop(
    endpoint, question, completion, tmp_path
):
    refused = threading.Event()

    def reply(number, body):
        if body["messages"][0]["content"] == "question 0":
            refused.set()
            return 503, ERROR, {"Retry-After": "60"}
        refused.wait(20)
        return 200, completion("x"), {}

    def interrupt(n):
        if n:
            raise KeyboardInterrupt

    endpoint.reply = reply
    config = TeacherConfig(
        base_url=endpoint.url, model="m", concurrency=2, requests_per_minute=None
    )
    with pytest.raises(KeyboardInterrupt):
        Teacher(config, tmp_path).ask([question(0), question(1)], interrupt)
    assert len(endpoint.requests) == 2


def test_a_crowded_endpoint_is_left_alone_by_all(
    endpoint, make_teacher, question, completion, clock
):
    arrivals = []

    def reply(number, body):
        arrivals.append(clock())
        return (429, ERROR, {"Retry-After": "100"}) if number == 0 else (200, completion("x"), {})

    endpoint.reply = reply
    make_teacher(requests_per_minute=6).ask([question(i) for i in range(3)])
    assert arrivals == [1000, 1100, 1110, 1120]


def test_retries_count_against_the_rate_limit(endpoint, make_teacher, question, completion, clock):
    arrivals = []

    def reply(number, body):
        arrivals.append(clock())
        return (500, ERROR, {}) if number % 2 == 0 else (200, completion("x"), {})

    endpoint.reply = reply
    make_teacher(requests_per_minute=2).ask([question(i) for i in range(2)])
    assert arrivals == [1000, 1030, 1060, 1090]


def test_no_answer_in_time_is_sent_again(endpoint, make_teacher, question, completion):
    release = threading.Event()

    def reply(number, body):
        if number == 0:
            release.wait(30)
        return 200, completion("x"), {}

    endpoint.reply = reply
    try:
        (answer,) = make_teacher(timeout_s=1).ask([question(1)])
    finally:
        release.set()
    assert answer.text == "x"
    assert len(endpoint.requests) >= 2


def test_never_an_answer_in_time(endpoint, make_teacher, question):
    release = threading.Event()
    endpoint.reply = lambda number, body: (release.wait(30), None, {}) and (None, None, {})
    try:
        (failure,) = make_teacher(timeout_s=0.2, max_retries=1).ask([question(1)])
    finally:
        release.set()
    assert failure.reason == "no answer within 0.2 s (asked 2 times)"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>hello</html>", "something that is not JSON: '<html>hello</html>'"),
        (b"", "something that is not JSON: ''"),
        ([1], "JSON that is not a chat completion"),
        ({"choices": []}, "JSON that is not a chat completion"),
        ({"choices": None}, "JSON that is not a chat completion"),
        ({"choices": [{"message": None}]}, "JSON that is not a chat completion"),
        ({"error": "overloaded"}, "JSON that is not a chat completion: '{\"error\": \"overloaded\"}'"),
        ({"choices": [{"message": {"content": [1]}}]}, "a message whose content is not a text"),
    ],
)  # fmt: skip
def test_a_malformed_answer_is_sent_again_and_then_reported(
    endpoint, make_teacher, question, completion, content, said
):
    endpoint.reply = lambda n, body: (200, content, {})
    teacher = make_teacher(max_retries=1)
    (failure,) = teacher.ask([question(1)])
    assert failure.reason.startswith(f"answered with {said}")
    assert len(endpoint.requests) == 2
    endpoint.reply = lambda n, body: (200, completion("x"), {})
    assert teacher.ask([question(1)])[0].text == "x", "nothing malformed is kept"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "too long"}}, "HTTP 400: too long"),
        ({"detail": "too long"}, "HTTP 400: too long"),
        ({"error": "too long"}, "HTTP 400: too long"),
        ({"code": 5}, 'HTTP 400: {"code": 5}'),
        (b"too\n  long", "HTTP 400: too long"),
        (b"", "HTTP 400: no message"),
        (b"x" * 1000, "HTTP 400: " + "x" * 199 + "…"),
    ],
)  # fmt: skip
def test_one_study_that_fails_loses_nothing_else(
    endpoint, make_teacher, question, completion, body, said
):
    def reply(number, sent):
        bad = sent["messages"][0]["content"] == "question 1"
        return (400, body, {}) if bad else (200, completion("x"), {})

    endpoint.reply = reply
    outcomes = make_teacher().ask([question(i) for i in range(3)])
    assert outcomes[1] == Failure("study 'S1'", said)
    assert [getattr(o, "text", None) for o in outcomes] == ["x", None, "x"]
    assert len(endpoint.requests) == 3, "what the server objects to is not sent again"


def test_equal_questions_that_fail_name_each_its_study(endpoint, make_teacher):
    endpoint.reply = lambda number, body: (400, ERROR, {})
    messages = (("user", "same"),)
    outcomes = make_teacher().ask([Request("study 'A'", messages), Request("study 'B'", messages)])
    assert [o.label for o in outcomes] == ["study 'A'", "study 'B'"]


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (401, {"error": {"message": "who are you?"}}, "HTTP 401: who are you?"),
        (403, {"error": {"message": "not you"}}, "HTTP 403: not you"),
        (404, {"detail": "Not Found"}, "HTTP 404: Not Found; check base_url and model"),
        (
            429,
            {"error": {"message": "no money", "code": "insufficient_quota"}},
            "HTTP 429: no money",
        ),
    ],
)
def test_what_would_fail_for_all_stops_at_once(
    endpoint, make_teacher, question, completion, clock, code, body, said
):
    endpoint.reply = lambda n, sent: (200, completion("x"), {}) if n < 2 else (code, body, {})
    questions = [question(i) for i in range(20)]
    with pytest.raises(C2SError) as caught:
        make_teacher().ask(questions)
    assert f"study 'S2': {said}; answers so far are kept in" in str(caught.value)
    assert len(endpoint.requests) == 3, "one at a time: none is sent after the one that failed"
    assert not clock.sleeps
    sent = len(endpoint.requests)
    endpoint.reply = lambda n, sent: (200, completion("y"), {})
    outcomes = make_teacher().ask(questions)
    assert [o.text for o in outcomes[:3]] == ["x", "x", "y"]
    assert len(endpoint.requests) == sent + 18


def test_nobody_listens(make_teacher, question, clock):
    with pytest.raises(C2SError, match=r"study 'S1': cannot be reached \(.*\) \(asked 3 times\)"):
        make_teacher(base_url="http://127.0.0.1:9/v1", max_retries=2).ask([question(1)])
    assert len(clock.sleeps) == 2


def test_a_pause_that_is_too_long_is_not_waited_for(endpoint, make_teacher, question, clock):
    endpoint.reply = lambda number, body: (429, ERROR, {"Retry-After": "7200"})
    (failure,) = make_teacher().ask([question(1)])
    assert failure.reason == "HTTP 429: the server is upset (asks to wait 7,200 s)"
    assert not clock.sleeps


# --- reading responses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"retry-after": formatdate(1060, usegmt=True)}, 60),
        ({"retry-after": formatdate(940, usegmt=True)}, 0),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers, now=1000) == seconds


@given(text=st.text(), finish=st.sampled_from(["stop", "length"]))
def test_any_text_is_read_as_it_is(text, finish):
    body = {"choices": [{"message": {"content": text}, "finish_reason": finish}]}
    answer = read_completion(json.dumps(body))
    assert answer == Answer(text, finish)


def test_refusals_and_halves_of_characters():
    refused = {"choices": [{"message": {"content": None, "refusal": "no"}, "finish_reason": None}]}
    assert read_completion(json.dumps(refused)) == Answer("", "stop")
    half = '{"choices": [{"message": {"content": "a\\ud83d"}}], "usage": {"prompt_tokens": "?"}}'
    assert read_completion(half) == Answer("a?", "stop")


# --- the estimate -----------------------------------------------------------------------------


def test_estimate_by_hand(make_teacher, question):
    teacher = make_teacher(
        max_tokens=100,
        requests_per_minute=30,
        price_per_million_input=2,
        price_per_million_output=10,
    )
    asked = [Request(f"s{i}", (("user", "x" * 38), ("assistant", f"{i:04d}"))) for i in range(5)]
    before = teacher.estimate([*asked, asked[0]])
    assert (before.requests, before.cached) == (5, 0)
    assert before.input_tokens == 5 * 11  # 42 characters / 4, rounded up
    assert before.output_tokens == 500
    assert before.cost == pytest.approx((55 * 2 + 500 * 10) / 1e6)
    assert before.seconds == 8  # one every two seconds; the fifth starts at 8
    assert before.counted_by == "characters / 4 (an estimate)"
    teacher.ask(asked[:2])
    after = teacher.estimate(asked)
    assert (after.requests, after.cached, after.input_tokens, after.seconds) == (3, 2, 33, 4)
    assert str(after) == (
        "3 requests (2 more are answered already); 33 tokens in, by characters / 4 (an estimate); at most 300 tokens "
        "out; at most 0.00 in the currency of the prices; at least 0.1 minutes under the rate limits"
    )


def test_estimate_without_prices_and_limits(make_teacher, question):
    estimate = make_teacher().estimate([question(1)])
    assert (estimate.cost, estimate.seconds) == (None, None)
    assert make_teacher(requests_per_minute=60).estimate([]).seconds == 0


def test_estimated_time_is_the_time_it_takes(endpoint, make_teacher, question, clock):
    teacher = make_teacher(max_tokens=10, requests_per_minute=600, tokens_per_minute=50)
    questions = [question(i) for i in range(13)]
    seconds = teacher.estimate(questions).seconds
    assert seconds > 60
    teacher.ask(questions)
    assert clock() - 1000 == pytest.approx(seconds)


def test_a_question_larger_than_a_minute_is_refused(endpoint, make_teacher, question):
    teacher = make_teacher(max_tokens=10, tokens_per_minute=12)
    said = "study 'S1' takes 3 tokens of prompt and up to 10 of answer, more than tokens_per_minute = 12"
    with pytest.raises(UsageError, match=said):
        teacher.estimate([question(1)])
    with pytest.raises(UsageError, match=said):
        teacher.ask([question(1)])
    assert not endpoint.requests


def test_by_default_time_is_real(endpoint, question, tmp_path):
    config = TeacherConfig(base_url=endpoint.url, model="m", requests_per_minute=600, concurrency=2)
    began = time.monotonic()
    outcomes = Teacher(config, tmp_path).ask([question(i) for i in range(4)])
    assert all(isinstance(o, Answer) for o in outcomes)
    assert time.monotonic() - began >= 0.29, "four starts, a tenth of a second apart"
