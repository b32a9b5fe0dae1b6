"""OpenAI's own Python client against the gateway, with its strict validation of every answer."""

import asyncio
import os

import openai
from pydantic import BaseModel

from checks import CITIES, CITY, MODEL, URL, check, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="any", max_retries=0, _strict_response_validation=True)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": CITY},
    "required": ["city"],
    "additionalProperties": False,
}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PARAMETERS}}
TOOL = {"type": "function", "name": "weather", "description": "The weather", "parameters": PARAMETERS, "strict": False}


class City(BaseModel):
    city: CITIES


@check
def chat():
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=16)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer
    assert choice.message.role == "assistant" and choice.message.content, answer
    assert choice.finish_reason in ("stop", "length"), answer
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer.model_extra["routing"]["attempts"], answer


@check
def chat_with_the_newer_names_of_things():
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, max_completion_tokens=4, user="somebody", metadata={"a": "b"}, stop=["STOP"]
    )
    assert answer.usage.completion_tokens <= 4, answer


@check
def chat_stream():
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert text and len(finishes) == 1, chunks
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices, chunks[-1]


@check
def chat_raw_headers():
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=4)
    assert raw.headers["x-request-id"].startswith("req_") and raw.headers["x-spillway-target"], raw.headers
    assert raw.parse()._request_id == raw.headers["x-request-id"]


@check
def chat_tools_and_back():
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[CHAT_TOOL], tool_choice="required", max_tokens=60
    )
    choice = answer.choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls" and call.function.name == "weather", answer
    City.model_validate_json(call.function.arguments)
    back = [*MESSAGES, choice.message.model_dump(exclude_none=True)]
    back.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    answer = client.chat.completions.create(model=MODEL, messages=back, tools=[CHAT_TOOL], max_tokens=16)
    assert answer.choices[0].message is not None


@check
def chat_tools_streamed():
    with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, tools=[CHAT_TOOL], tool_choice="required", max_tokens=60
    ) as stream:
        for _ in stream:
            pass
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert call.function.name == "weather", call
    City.model_validate_json(call.function.arguments)


@check
def chat_structured():
    answer = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=City, max_tokens=60)
    assert isinstance(answer.choices[0].message.parsed, City), answer


@check
def completion():
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8)
    assert answer.object == "text_completion" and answer.choices[0].text, answer
    # OpenAI's own chunks have no finish_reason until the last, which the strict client takes for a fault.
    loose = openai.OpenAI(base_url=f"{URL}/v1", api_key="any", max_retries=0)
    chunks = list(loose.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks), chunks


@check
def models():
    names = [model.id for model in client.models.list()]
    assert {"auto", MODEL} <= set(names), names
    assert client.models.retrieve(MODEL).id == MODEL


@check
def response():
    answer = client.responses.create(model=MODEL, input="Say hello.", instructions="Be brief.", max_output_tokens=64)
    assert answer.id.startswith("resp_") and answer.output_text, answer
    assert answer.status in ("completed", "incomplete") and answer.usage.total_tokens > 0, answer


@check
def response_stream():
    with client.responses.stream(model=MODEL, input="Say hello.", max_output_tokens=64) as stream:
        events = list(stream)
    # Completed or cut by its limit, as it happens.
    final = events[-1].response
    types = [event.type for event in events]
    assert types[:2] == ["response.created", "response.in_progress"], types
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas and deltas == final.output_text, events
    assert types[-1] in ("response.completed", "response.incomplete"), types


@check
def response_tools_and_back():
    items = [{"role": "user", "content": [{"type": "input_text", "text": "What is the weather?"}]}]
    answer = client.responses.create(
        model=MODEL, input=items, tools=[TOOL], tool_choice="required", max_output_tokens=60
    )
    call = next(item for item in answer.output if item.type == "function_call")
    City.model_validate_json(call.arguments)
    items += [item.model_dump() for item in answer.output]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
    assert client.responses.create(model=MODEL, input=items, tools=[TOOL], max_output_tokens=16).output


@check
def response_tools_streamed():
    with client.responses.stream(
        model=MODEL, input="What is the weather?", tools=[TOOL], tool_choice="required", max_output_tokens=60
    ) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_response()
    call = next(item for item in final.output if item.type == "function_call")
    City.model_validate_json(call.arguments)
    assert "response.function_call_arguments.delta" in types and types[-1] == "response.completed", types


@check
def response_structured():
    answer = client.responses.parse(model=MODEL, input="Name a city.", text_format=City, max_output_tokens=60)
    assert isinstance(answer.output_parsed, City), answer


@check
def response_that_needs_a_store_is_refused():
    try:
        client.responses.create(model=MODEL, input="a", previous_response_id="resp_1")
    except openai.BadRequestError as error:
        assert error.param == "previous_response_id", error
    else:
        raise AssertionError("refused")


@check
def errors_are_the_clients_own():
    for make, kind in [
        (lambda: client.chat.completions.create(model="no-such-model", messages=MESSAGES), openai.NotFoundError),
        (lambda: client.chat.completions.create(model=MODEL, messages=[]), openai.BadRequestError),
        (lambda: client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=9), openai.BadRequestError),
        (lambda: client.models.retrieve("no-such-model"), openai.NotFoundError),
    ]:
        try:
            make()
        except kind as error:
            assert error.body and error.request_id, error
        else:
            raise AssertionError(f"{kind.__name__} was expected")


@check
def asynchronously():
    async def several():
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="any", max_retries=0) as client:
            asks = [client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=8) for _ in range(4)]
            return await asyncio.gather(*asks)

    assert all(answer.choices[0].message.content is not None for answer in asyncio.run(several()))


if os.environ.get("SPILLWAY_EMBEDDINGS"):

    @check
    def embeddings():
        answer = client.embeddings.create(model=MODEL, input=["a", "b"])
        assert len(answer.data) == 2 and len(answer.data[0].embedding) > 0, answer


run()
