// Server-sent events out of a response's body. `EventSource` cannot send a token, nor a POST.

/** Yields `{event, data}` of each event until the body ends. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value.replaceAll("\r\n", "\n");
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const one = parsed(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (one) yield one;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const parsed = (text) => {
  let event = "message";
  const data = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? { event, data: data.join("\n") } : null;
};
