"""Asking a teacher: several questions at a time, within its limits, with retries, each answer kept.

Any endpoint that speaks the chat completions of OpenAI will do: a hosted one, vLLM, `transformers serve`.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c2s.common.errors import C2SError, UsageError, missing_extra
from c2s.common.seeds import generator
from c2s.teachers.cache import Answer, AnswerCache, Request, digest
from c2s.teachers.config import TeacherConfig
from c2s.teachers.limits import RateLimit

if TYPE_CHECKING:
    from openai import OpenAI
    from transformers import PreTrainedTokenizerBase

#: Characters a token, where no tokenizer counts: the usual rule of thumb for English.
CHARACTERS_PER_TOKEN = 4

#: Longest pause in seconds that an endpoint may ask for before we give up, and longest of our own.
LONGEST_PAUSE = 600.0
LONGEST_BACKOFF = 60.0

#: Codes after which every other question would fail alike: key, permission, address or model.
_HOPELESS = (401, 403, 404)
_RETRIED = (408, 409, 429)


@dataclass(frozen=True)
class Failure:
    """A question that got no answer: what it was about, and what the endpoint said, in one line."""

    label: str
    reason: str


@dataclass(frozen=True)
class Estimate:
    """What asking would take; questions that are answered already cost nothing.

    Attributes
    ----------
    requests, cached
        To be sent, and answered already.
    input_tokens
        Of the prompts, counted as `counted_by` says.
    output_tokens
        At most: every answer as long as `max_tokens`.
    cost
        At most, in the currency of the prices; None without prices.
    seconds
        Until the last request may start under the rate limits; None without limits.
    counted_by
        "characters / 4 (an estimate)", or the tokenizer that counted.
    """

    requests: int
    cached: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    seconds: float | None
    counted_by: str

    def __str__(self) -> str:
        parts = [
            f"{self.requests:,} requests ({self.cached:,} more are answered already)",
            f"{self.input_tokens:,} tokens in, by {self.counted_by}",
            f"at most {self.output_tokens:,} tokens out",
        ]
        if self.cost is not None:
            parts.append(f"at most {self.cost:,.2f} in the currency of the prices")
        if self.seconds is not None:
            parts.append(f"at least {self.seconds / 60:,.1f} minutes under the rate limits")
        return "; ".join(parts)


class Teacher:
    """A language model behind an OpenAI-compatible endpoint.

    What is answered already needs neither the network nor the key nor the SDK.

    Parameters
    ----------
    config
        Endpoint, limits, prices.
    folder
        Of the recipe; the answers are kept in `config.cache_folder(folder)`.
    tokenizer
        Counts the tokens of prompts, for estimates and `tokens_per_minute`; default: characters / 4.
    clock, sleep
        Seconds that never go back, and waiting; for tests.
    """

    def __init__(
        self,
        config: TeacherConfig,
        folder: str | Path = ".",
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.config = config
        self.cache = AnswerCache(config.cache_folder(folder))
        self._tokenizer = tokenizer
        self._clock = clock
        self._sleep = sleep
        self._limit = RateLimit(config.requests_per_minute, config.tokens_per_minute, clock)

    def key(self, request: Request) -> str:
        """Return the SHA-256 of (model, messages, sampling parameters, sample number)."""
        return digest(self._question(request))

    def _question(self, request: Request) -> dict[str, Any]:
        return {
            "model": self.config.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "sampling": self.config.sampling(),
            "sample": request.sample,
        }

    def count(self, request: Request) -> int:
        """Return the number of tokens of a prompt, without those of the endpoint's chat template."""
        texts = [text for _, text in request.messages]
        if self._tokenizer is None:
            return math.ceil(sum(map(len, texts)) / CHARACTERS_PER_TOKEN)
        return sum(len(self._tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts)

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """Return what asking these questions would take, before anything is sent.

        Retries, and unusable answers that are asked for again, come on top.

        Raises
        ------
        UsageError
            A question alone is larger than `tokens_per_minute`.
        """
        config = self.config
        unique = {self.key(request): request for request in requests}
        new = [r for key, r in unique.items() if self.cache.read(key) is None]
        tokens = [self.count(request) for request in new]
        self._check_size(new, tokens)
        # The same bookkeeping as when asking, by a clock that stands still.
        limit = RateLimit(config.requests_per_minute, config.tokens_per_minute, lambda: 0.0)
        starts = [limit.reserve(n + config.max_tokens) for n in tokens]
        limited = (config.requests_per_minute, config.tokens_per_minute) != (None, None)
        output = len(new) * config.max_tokens
        cost = None
        if (
            config.price_per_million_input is not None
            and config.price_per_million_output is not None
        ):
            cost = sum(tokens) / 1e6 * config.price_per_million_input
            cost += output / 1e6 * config.price_per_million_output
        return Estimate(
            requests=len(new),
            cached=len(unique) - len(new),
            input_tokens=sum(tokens),
            output_tokens=output,
            cost=cost,
            seconds=(starts[-1] if starts else 0.0) if limited else None,
            counted_by=self._counted_by(),
        )

    def _counted_by(self) -> str:
        if self._tokenizer is None:
            return f"characters / {CHARACTERS_PER_TOKEN} (an estimate)"
        return f"the tokenizer {self._tokenizer.name_or_path or type(self._tokenizer).__name__}"

    def _check_size(self, requests: Sequence[Request], tokens: Sequence[int]) -> None:
        limit = self.config.tokens_per_minute
        for request, n in zip(requests, tokens, strict=True):
            if limit is not None and n + self.config.max_tokens > limit:
                raise UsageError(
                    f"teacher: {request.label} takes {n:,} tokens of prompt and up to {self.config.max_tokens:,} of "
                    f"answer, more than tokens_per_minute = {limit:,}; raise it or lower max_tokens"
                )

    def ask(
        self, requests: Sequence[Request], on_progress: Callable[[int], None] | None = None
    ) -> list[Answer | Failure]:
        """Return one answer or failure a question, in the order of the questions.

        Equal questions are sent once. A question that fails does not stop the others, unless every other would
        fail alike. Interrupted work goes on from the answers that are kept.

        Parameters
        ----------
        requests
            The questions.
        on_progress
            Told how many more questions are done.

        Raises
        ------
        UsageError
            The SDK or the key is missing, or a question alone is larger than `tokens_per_minute`.
        C2SError
            The endpoint cannot be reached, or refuses the key, the address or the model; or an answer cannot
            be kept.
        """
        progress = on_progress or (lambda _: None)
        keys = [self.key(request) for request in requests]
        outcomes: dict[str, Answer | Failure] = {}
        missing: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in outcomes and key not in missing:
                answer = self.cache.read(key)
                if answer is None:
                    missing[key] = request
                else:
                    outcomes[key] = answer
        progress(len(requests) - len(missing))
        if missing:
            outcomes.update(self._ask_endpoint(missing, progress))
        return [
            Failure(request.label, outcome.reason) if isinstance(outcome, Failure) else outcome
            for request, outcome in zip(requests, (outcomes[key] for key in keys), strict=True)
        ]

    def _ask_endpoint(
        self, missing: Mapping[str, Request], progress: Callable[[int], None]
    ) -> dict[str, Answer | Failure]:
        self._check_size(list(missing.values()), [self.count(r) for r in missing.values()])
        self.cache.prepare()
        outcomes: dict[str, Answer | Failure] = {}
        with (
            _Endpoint(self.config) as endpoint,
            ThreadPoolExecutor(self.config.concurrency) as pool,
        ):
            work = _Work(self, endpoint, threading.Event())
            futures = {pool.submit(work.ask, key, r): key for key, r in missing.items()}
            try:
                for future in as_completed(futures):
                    outcomes[futures[future]] = future.result()
                    progress(1)
            except BaseException:
                # What is under way is paid for: it ends and is kept; nothing new is sent.
                work.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return outcomes


@dataclass(frozen=True)
class _Work:
    """The questions of one call of `Teacher.ask`, in the threads of its pool."""

    teacher: Teacher
    endpoint: _Endpoint
    stop: threading.Event

    def ask(self, key: str, request: Request) -> Answer | Failure:
        """Send a question until it is answered or given up."""
        teacher, config = self.teacher, self.teacher.config
        body = self._body(request)
        tokens = teacher.count(request) + config.max_tokens
        for attempt in range(config.max_retries + 1):
            self._wait(teacher._limit.reserve(tokens))
            if self.stop.is_set():
                break
            outcome = self.endpoint.send(body)
            if isinstance(outcome, Answer):
                teacher.cache.write(key, teacher._question(request), outcome)
                return outcome
            last = attempt == config.max_retries
            reason = outcome.reason + (f" (asked {attempt + 1} times)" if attempt else "")
            if outcome.hopeless or (last and outcome.unreachable):
                self.stop.set()  # here, since the calling thread may notice only after other questions were sent
                raise C2SError(
                    f"teacher {config.base_url}: {request.label}: {reason}; answers so far are kept in "
                    f"{teacher.cache.folder}, and running again goes on from there"
                )
            if last or not outcome.retry:
                return Failure(request.label, reason)
            self._pause(key, attempt, outcome)
        return Failure(request.label, "not asked, because the work was stopped")

    def _body(self, request: Request) -> dict[str, Any]:
        config = self.teacher.config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            config.max_tokens_field: config.max_tokens,
        }
        if config.temperature is not None:
            body["temperature"] = config.temperature
        if config.top_p is not None:
            body["top_p"] = config.top_p
        if config.seed is not None:
            # Samples of one prompt must differ even where the endpoint honours the seed to the letter.
            draw = generator(config.seed, "teacher", request.sample)
            body["seed"] = int(draw.integers(2**31))
        return body

    def _pause(self, key: str, attempt: int, problem: _Problem) -> None:
        """Wait before the next attempt: as long as the endpoint asks, else twice as long each time."""
        seconds = problem.retry_after
        if seconds is None:
            # The jitter, drawn from the question, keeps threads that failed together apart.
            jitter = generator(0, "teacher backoff", key, attempt).uniform(0.5, 1.0)
            seconds = min(LONGEST_BACKOFF, 2.0**attempt) * float(jitter)
        if problem.crowded:
            self.teacher._limit.hold(seconds)
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            (self.teacher._sleep or self.stop.wait)(seconds)


@dataclass(frozen=True)
class _Problem:
    """Why a request failed.

    Attributes
    ----------
    reason
        One line, without the key.
    retry
        Sending it again may help.
    hopeless
        Every other request would fail alike.
    unreachable
        There was no connection.
    crowded
        The endpoint wants fewer requests.
    retry_after
        Seconds that it asks to wait, if it says so.
    """

    reason: str
    retry: bool = False
    hopeless: bool = False
    unreachable: bool = False
    crowded: bool = False
    retry_after: float | None = None


class _Endpoint:
    """The SDK's client: sends one request and says what came of it. Retries are ours, so it makes none."""

    def __init__(self, config: TeacherConfig) -> None:
        try:
            from openai import OpenAI
        except ImportError as error:
            raise missing_extra("openai", "teacher") from error
        self._config = config
        self._key = read_key(config)
        # Without a key the SDK would send whatever OPENAI_API_KEY holds, to whatever endpoint this is.
        self._client: OpenAI = OpenAI(
            base_url=config.base_url,
            api_key=self._key or "none",
            timeout=config.timeout_s,
            max_retries=0,
        )
        # The same for OPENAI_ORG_ID and OPENAI_PROJECT_ID.
        self._client.organization = self._client.project = None

    def __enter__(self) -> _Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, body: dict[str, Any]) -> Answer | _Problem:
        """Send a request once."""
        import openai

        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
            return read_completion(raw.text)
        except openai.APITimeoutError:
            return _Problem(f"no answer within {self._config.timeout_s:g} s", retry=True)
        except openai.APIConnectionError as error:
            cause = self._line(error.__cause__ or error)
            return _Problem(f"cannot be reached ({cause})", retry=True, unreachable=True)
        except openai.APIStatusError as error:
            return self._status(error.status_code, error.body, error.response.headers)
        except _Malformed as error:
            return _Problem(f"answered with {self._line(error)}", retry=True)

    def _status(self, code: int, body: object, headers: Mapping[str, str]) -> _Problem:
        reason = f"HTTP {code}: {self._line(_said(body))}"
        # OpenAI's 429 for an account that has run out of money: waiting does not help.
        broke = isinstance(body, dict) and body.get("code") == "insufficient_quota"
        if code in _HOPELESS or broke:
            hint = "; check base_url and model" if code == 404 else ""
            return _Problem(reason + hint, hopeless=True)
        if code not in _RETRIED and code < 500:
            return _Problem(reason)
        pause = retry_after(headers, time.time())
        if pause is not None and pause > LONGEST_PAUSE:
            return _Problem(f"{reason} (asks to wait {pause:,.0f} s)")
        return _Problem(reason, retry=True, crowded=code == 429, retry_after=pause)

    def _line(self, message: object) -> str:
        """Return a message as one line without the key, which some servers send back."""
        text = " ".join(str(message).split())
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= 200 else text[:199] + "…"


def read_key(config: TeacherConfig) -> str | None:
    """Return the key from the environment, or None if the endpoint needs none.

    Raises
    ------
    UsageError
        The variable is not set, or cannot be sent. The message names it, never its value.
    """
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise UsageError(
            f"teacher: the environment variable {config.api_key_env} is not set; put the key of {config.base_url} there"
        )
    if not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"teacher: the environment variable {config.api_key_env} holds something that is not a key (characters "
            "that cannot be sent); put the key alone there"
        )
    return key


class _Malformed(ValueError):
    """A response with code 200 that is not a chat completion."""


def read_completion(text: str) -> Answer:
    """Read the body of a chat completion.

    Raises
    ------
    ValueError
        It is not one.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _Malformed(f"something that is not JSON: {text[:60]!r}") from error
    try:
        choice = content["choices"][0]
        said = choice["message"].get("content")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _Malformed(f"JSON that is not a chat completion: {text[:60]!r}") from error
    if said is not None and not isinstance(said, str):
        raise _Malformed(f"a message whose content is not a text: {text[:60]!r}")
    usage = content.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Answer(
        # JSON can hold half a character, which no file in UTF-8 can.
        text=(said or "").encode("utf-8", "replace").decode(),
        finish=str(choice.get("finish_reason") or "stop"),
        input_tokens=_whole(counts.get("prompt_tokens")),
        output_tokens=_whole(counts.get("completion_tokens")),
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a response asks to wait, or None if it does not say.

    Parameters
    ----------
    headers
        Of the response, with names in lower case or indifferent to case.
    now
        Seconds since 1970, against which a date is read (RFC 9110, section 10.2.3).
    """
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = float(headers["retry-after"])
    except KeyError:
        return None
    except ValueError:
        try:
            seconds = parsedate_to_datetime(headers["retry-after"]).timestamp() - now
        except (KeyError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _said(body: object) -> object:
    """Return the words of an error's body, which differ between servers."""
    while isinstance(body, dict):
        inner = next((body[k] for k in ("message", "detail", "error") if body.get(k)), None)
        if inner is None:
            return json.dumps(body)
        body = inner
    return body or "no message"
