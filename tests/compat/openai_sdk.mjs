// OpenAI's own Node client against the gateway.

import OpenAI from "openai";
import { assert, CITY, MODEL, run, URL } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const parameters = {
  type: "object",
  properties: { city: CITY },
  required: ["city"],
  additionalProperties: false,
};
const chatTool = { type: "function", function: { name: "weather", parameters } };
const tool = { type: "function", name: "weather", parameters, strict: false };

await run({
  async chat() {
    const answer = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 16 });
    assert(answer.choices[0].message.content && answer.usage.total_tokens > 0, answer);
  },

  async chatStream() {
    const stream = client.chat.completions.stream({
      model: MODEL,
      messages,
      max_tokens: 16,
      stream_options: { include_usage: true },
    });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    const final = await stream.finalChatCompletion();
    assert(text && final.choices[0].message.content === text, final);
    assert((await stream.totalUsage()).completion_tokens > 0, final);
  },

  async chatTools() {
    const ask = { model: MODEL, messages, tools: [chatTool], tool_choice: "required", max_tokens: 60 };
    const whole = (await client.chat.completions.create(ask)).choices[0].message.tool_calls[0];
    const final = await client.chat.completions.stream(ask).finalChatCompletion();
    for (const call of [whole, final.choices[0].message.tool_calls[0]]) {
      assert(call.function.name === "weather" && "city" in JSON.parse(call.function.arguments), call);
    }
  },

  async chatStructured() {
    const response_format = { type: "json_schema", json_schema: { name: "city", schema: parameters, strict: true } };
    const answer = await client.chat.completions.create({ model: MODEL, messages, response_format, max_tokens: 60 });
    assert("city" in JSON.parse(answer.choices[0].message.content), answer);
  },

  async completion() {
    const answer = await client.completions.create({ model: MODEL, prompt: "Once", max_tokens: 8 });
    assert(answer.choices[0].text, answer);
  },

  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert(names.includes(MODEL), names);
    assert((await client.models.retrieve(MODEL)).id === MODEL, names);
  },

  async response() {
    const answer = await client.responses.create({ model: MODEL, input: "Say hello.", max_output_tokens: 64 });
    assert(answer.output_text && answer.usage.total_tokens > 0, answer);
  },

  async responseStream() {
    const stream = client.responses.stream({ model: MODEL, input: "Say hello.", max_output_tokens: 64 });
    let text = "";
    let last;
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
      last = event;
    }
    // Completed or cut by its limit, as it happens.
    const said = last.response.output.flatMap((item) => item.content ?? []).map((part) => part.text);
    assert(text && said.join("") === text, last);
  },

  async responseTools() {
    const ask = { model: MODEL, input: "Weather?", tools: [tool], tool_choice: "required", max_output_tokens: 60 };
    const whole = (await client.responses.create(ask)).output.find((item) => item.type === "function_call");
    const final = await client.responses.stream(ask).finalResponse();
    for (const call of [whole, final.output.find((item) => item.type === "function_call")]) {
      assert(call.name === "weather" && "city" in JSON.parse(call.arguments), call);
    }
  },

  async errors() {
    const error = await client.chat.completions.create({ model: "no-such-model", messages }).catch((error) => error);
    assert(error instanceof OpenAI.NotFoundError && error.code === "model_not_found" && error.requestID, error);
  },
});
