// Anthropic's own Node client against the gateway.

import Anthropic from "@anthropic-ai/sdk";
import { assert, CITY, MODEL, run, URL } from "./checks.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const input_schema = { type: "object", properties: { city: CITY }, required: ["city"] };
const tool = { name: "weather", input_schema };

await run({
  async message() {
    const answer = await client.messages.create({ model: MODEL, max_tokens: 16, messages });
    assert(answer.content[0].text && answer.usage.output_tokens > 0, answer);
  },

  async stream() {
    const stream = client.messages.stream({ model: MODEL, max_tokens: 16, messages });
    let text = "";
    stream.on("text", (piece) => (text += piece));
    const final = await stream.finalMessage();
    assert(text && final.content[0].text === text && final.stop_reason, final);
  },

  async tools() {
    const ask = { model: MODEL, max_tokens: 60, messages, tools: [tool], tool_choice: { type: "any" } };
    for (const answer of [await client.messages.create(ask), await client.messages.stream(ask).finalMessage()]) {
      const call = answer.content.find((block) => block.type === "tool_use");
      assert(answer.stop_reason === "tool_use" && call.name === "weather" && "city" in call.input, answer);
    }
  },

  async tokens() {
    const counted = await client.messages.countTokens({ model: MODEL, messages });
    assert(counted.input_tokens > 0, counted);
  },

  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert(names.includes(MODEL), names);
  },

  async errors() {
    const ask = { model: "no-such-model", max_tokens: 1, messages };
    const error = await client.messages.create(ask).catch((error) => error);
    assert(error instanceof Anthropic.NotFoundError && error.requestID, error);
  },
});
