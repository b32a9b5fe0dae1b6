// One chat completion through the admin listener, as a stream of `{text}` steps and a last `{routing, usage}`. An error inside the stream is
// thrown, as one before it is.

import { call, Refused } from "./net.js";
import { events } from "./sse.js";

export async function* chat(body, { signal, key } = {}) {
  const json = { ...body, stream: true, stream_options: { include_usage: true } };
  const headers = key ? { "x-api-key": key } : {};
  const response = await call("/admin/playground", { method: "POST", json, headers, signal });
  yield { head: { target: response.headers.get("x-spillway-target"), complexity: response.headers.get("x-spillway-complexity"), request: response.headers.get("x-request-id"), simulated: response.headers.get("x-spillway-simulated") === "true" } };
  for await (const { data } of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(502, chunk.error.message, chunk.error.code);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) yield { text: choice.delta.content };
    if (choice?.finish_reason) yield { reason: choice.finish_reason };
    if (chunk.routing) yield { routing: chunk.routing, usage: chunk.usage };
  }
  throw new Refused(502, "The stream ended before its end.", null);
}
