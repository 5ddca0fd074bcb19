"""The official Python client and LangChain against the API at API."""

import json
import os
import sys
import time
from typing import Literal

import openai
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

BASE = os.environ["API"] + "/v1"
MODEL = "chat-demo"
ASK = [{"role": "user", "content": "Tell me a short story about a fox."}]
COLOR = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}
PAINT = {"type": "function", "function": {"name": "paint", "parameters": COLOR}}

client = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0)
checks = []


def check(function):
    checks.append(function)
    return function


def patiently(ask):
    """Miners may be busy with the validator's own requests for a moment."""
    for _ in range(60):
        try:
            return ask()
        except (openai.InternalServerError, openai.RateLimitError) as error:
            last = error
            time.sleep(0.5)
    raise last


def create(**more):
    more = {"messages": ASK, "max_tokens": 40, "temperature": 0, **more}
    return patiently(lambda: client.chat.completions.create(model=MODEL, **more))


def refused(kind, **more):
    try:
        client.chat.completions.create(**{"model": MODEL, "messages": ASK, **more})
    except kind as error:
        return error
    raise AssertionError(f"{more} was not refused")


@check
def a_chat_is_answered_with_its_usage():
    answer = create()
    assert answer.choices[0].message.content.strip()
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.id.startswith("chatcmpl-") and answer._request_id


@check
def a_stream_ends_with_the_usage_and_says_what_the_whole_answer_says():
    chunks = list(create(stream=True, seed=7, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == create(seed=7).choices[0].message.content
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@check
def logprobs_are_those_of_the_tokens():
    answer = create(logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in content)


@check
def several_answers_differ_and_a_stop_text_is_no_part_of_them():
    answer = create(n=3, temperature=1, seed=1, stop=["fox"])
    texts = [choice.message.content for choice in answer.choices]
    assert len(texts) == 3 and all("fox" not in text for text in texts)


@check
def a_schema_is_followed_and_a_forced_call_is_made():
    schema = {"type": "json_schema", "json_schema": {"name": "color", "schema": COLOR}}
    text = create(response_format=schema).choices[0].message.content
    assert json.loads(text)["color"] in ("red", "blue"), text
    choice = create(tools=[PAINT], tool_choice="required").choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0].function
    assert call.name == "paint" and json.loads(call.arguments)["color"] in ("red", "blue")


@check
def what_bends_the_choice_of_tokens_bends_it():
    plain = create(logprobs=True).choices[0]
    # The same answer again and again is what penalties are against.
    bent = create(frequency_penalty=2, presence_penalty=2, logprobs=True).choices[0]
    tokens = [token.token for token in bent.logprobs.content]
    repeats = len(tokens) - len(set(tokens))
    before = [token.token for token in plain.logprobs.content]
    assert repeats < len(before) - len(set(before)) or plain.message != bent.message
    # A token that is all but certain is all that is said.
    only = create(logit_bias={"70": 100}, max_completion_tokens=5, max_tokens=openai.NOT_GIVEN)
    said = only.choices[0].message.content
    assert only.usage.completion_tokens == 5 and said == said[: len(said) // 5] * 5, said


@check
def an_answer_can_be_any_json_object():
    answer = create(response_format={"type": "json_object"}, max_tokens=200, temperature=1, seed=3)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    else:
        assert answer.choices[0].message.content.lstrip().startswith("{")


@check
def a_completion_continues_a_text():
    answer = patiently(
        lambda: client.completions.create(model="complete-demo", prompt="Once upon", max_tokens=20)
    )
    assert answer.choices[0].text and answer.usage.completion_tokens > 0


@check
def models_are_listed_and_told_of():
    models = {model.id for model in client.models.list()}
    assert {MODEL, "complete-demo"} <= models
    assert client.models.retrieve(MODEL).context_length > 0


@check
def mistakes_have_the_errors_that_the_client_knows():
    assert refused(openai.NotFoundError, model="gpt-9").code == "model_not_found"
    assert refused(openai.BadRequestError, temperature=3).param == "temperature"
    assert refused(openai.BadRequestError, extra_body={"top_k": 3}).param == "top_k"
    assert refused(openai.BadRequestError, messages=[]).param == "messages"
    wrong = openai.OpenAI(base_url=BASE, api_key="ts-none", max_retries=0)
    try:
        wrong.chat.completions.create(model=MODEL, messages=ASK)
        raise AssertionError("a wrong key was taken")
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"


@check
def a_key_beyond_its_limits_is_told_so():
    def ask(key):
        own = openai.OpenAI(base_url=BASE, api_key=key, max_retries=0)
        return own.chat.completions.with_raw_response.create(
            model=MODEL, messages=ASK, max_tokens=4
        )

    limited = os.environ["LIMITED_KEY"]
    # A key is known within two seconds; a miner that is busy costs a request as well.
    for _ in range(20):
        try:
            ask(limited)
        except openai.AuthenticationError:
            time.sleep(0.5)
        except openai.InternalServerError:
            pass
        except openai.RateLimitError as error:
            assert int(error.response.headers["retry-after"]) >= 1
            break
    else:
        raise AssertionError("two requests a minute were no limit")
    try:
        ask(os.environ["POOR_KEY"])
        raise AssertionError("a budget of nothing was no limit")
    except openai.RateLimitError as error:
        assert error.code == "insufficient_quota"


@check
def langchain_chats_streams_and_binds_tools():
    chat = ChatOpenAI(model=MODEL, base_url=BASE, api_key="none", max_tokens=40, max_retries=0)
    answer = patiently(lambda: chat.invoke("Tell me a short story about a fox."))
    assert answer.content and answer.usage_metadata["output_tokens"] > 0
    parts = patiently(lambda: list(chat.stream("Tell me a short story about a fox.")))
    assert len(parts) > 2

    @tool
    def paint(color: Literal["red", "blue"]) -> str:
        """Paints the fox."""
        return color

    bound = chat.bind_tools([paint], tool_choice="required", strict=True)
    assert patiently(lambda: bound.invoke("Paint it.")).tool_calls[0]["name"] == "paint"


failed = 0
for one in checks:
    name = one.__name__.replace("_", " ")
    try:
        one()
        print(f"ok      {name}")
    except Exception as error:  # noqa: BLE001: each check stands alone
        failed += 1
        print(f"FAILED  {name}: {type(error).__name__}: {error}")
print(f"Python clients: {len(checks) - failed} passed, {failed} failed")
sys.exit(1 if failed else 0)
