"""langchain-openai against the gateway: what many applications put between themselves and an API."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from checks import CITIES, MODEL, URL, check, run


def model(**more):
    return ChatOpenAI(base_url=f"{URL}/v1", api_key="any", model=MODEL, max_retries=0, max_tokens=60, **more)


@tool
def weather(city: CITIES) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class City(BaseModel):
    """A city."""

    city: CITIES


@check
def invoke():
    answer = model().invoke("Say hello.")
    assert answer.content and answer.usage_metadata["total_tokens"] > 0, answer


@check
def stream():
    chunks = list(model(stream_usage=True).stream("Say hello."))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content and whole.usage_metadata["output_tokens"] > 0, whole


@check
def tools_and_back():
    bound = model().bind_tools([weather], tool_choice="any")
    question = HumanMessage("What is the weather in Bern?")
    answer = bound.invoke([question])
    call = answer.tool_calls[0]
    assert call["name"] == "weather" and "city" in call["args"], answer
    back = [question, answer, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
    assert model().invoke(back) is not None


@check
def structured():
    for method in ("json_schema", "function_calling"):
        assert isinstance(model().with_structured_output(City, method=method).invoke("Name a city."), City), method


@check
def responses_api():
    answer = model(use_responses_api=True).invoke("Say hello.")
    assert answer.text and answer.usage_metadata["total_tokens"] > 0, answer
    chunks = list(model(use_responses_api=True).stream("Say hello."))
    assert "".join(chunk.text for chunk in chunks), chunks


run()
