"""Anthropic's own Python client against the gateway, with its strict validation of every answer."""

import anthropic

from checks import CITY, MODEL, URL, check, run

client = anthropic.Anthropic(base_url=URL, api_key="any", max_retries=0, _strict_response_validation=True)
MESSAGES = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "name": "weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": CITY}, "required": ["city"]},
}


@check
def message():
    answer = client.messages.create(model=MODEL, max_tokens=16, system="Be brief.", messages=MESSAGES)
    assert answer.type == "message" and answer.role == "assistant", answer
    assert answer.content[0].type == "text" and answer.content[0].text, answer
    assert answer.stop_reason in ("end_turn", "max_tokens"), answer
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 0 < answer.usage.output_tokens, answer
    assert answer._request_id.startswith("req_"), answer


@check
def message_of_blocks():
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Again."},
    ]
    answer = client.messages.create(
        model=MODEL, max_tokens=4, system=system, messages=turns, stop_sequences=["STOP"],
        metadata={"user_id": "somebody"}, extra_body={"temperature": 0.5, "top_k": 5},
    )
    assert answer.usage.output_tokens <= 4, answer


@check
def stream_of_events():
    events = list(client.messages.create(model=MODEL, max_tokens=16, messages=MESSAGES, stream=True))
    types = [event.type for event in events if event.type != "ping"]
    assert types[:2] == ["message_start", "content_block_start"], types
    assert types[-3:] == ["content_block_stop", "message_delta", "message_stop"], types


@check
def stream_put_together():
    with client.messages.stream(model=MODEL, max_tokens=16, messages=MESSAGES) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text and final.content[0].text == text, final
    assert final.stop_reason and final.usage.output_tokens > 0, final


@check
def tools_and_back():
    choice = {"type": "any"}
    answer = client.messages.create(model=MODEL, max_tokens=60, messages=MESSAGES, tools=[TOOL], tool_choice=choice)
    call = next(block for block in answer.content if block.type == "tool_use")
    assert answer.stop_reason == "tool_use" and call.name == "weather" and "city" in call.input, answer
    back = [
        *MESSAGES,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    answer = client.messages.create(model=MODEL, max_tokens=16, messages=back, tools=[TOOL])
    assert answer.stop_reason in ("end_turn", "max_tokens", "tool_use"), answer


@check
def tools_streamed():
    choice = {"type": "tool", "name": "weather"}
    with client.messages.stream(
        model=MODEL, max_tokens=60, messages=MESSAGES, tools=[TOOL], tool_choice=choice
    ) as stream:
        final = stream.get_final_message()
    call = next(block for block in final.content if block.type == "tool_use")
    assert final.stop_reason == "tool_use" and "city" in call.input, final


@check
def tokens():
    # A template may have a system prompt of its own for those who send none, so both send one.
    short, longer = [
        client.messages.count_tokens(model=MODEL, messages=MESSAGES, system="Be kind. " * times).input_tokens
        for times in (1, 9)
    ]
    assert 0 < short < longer, (short, longer)


@check
def models():
    page = client.models.list(limit=1000)
    assert MODEL in [model.id for model in page], page
    first = next(iter(client.models.list(limit=1)))
    assert len(list(client.models.list(limit=1))) == len(page.data), first
    assert client.models.retrieve(MODEL).id == MODEL


@check
def errors_are_the_clients_own():
    for make, kind, name in [
        (lambda: client.messages.create(model="no-such-model", max_tokens=1, messages=MESSAGES), anthropic.NotFoundError, "not_found_error"),
        (lambda: client.messages.create(model=MODEL, max_tokens=1, messages=[]), anthropic.BadRequestError, "invalid_request_error"),
        (lambda: client.messages.create(model=MODEL, max_tokens=0, messages=MESSAGES), anthropic.BadRequestError, "invalid_request_error"),
    ]:
        try:
            make()
        except kind as error:
            assert error.body["error"]["type"] == name and error.request_id, error
        else:
            raise AssertionError(f"{kind.__name__} was expected")


run()
