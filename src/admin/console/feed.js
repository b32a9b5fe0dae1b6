// The live connection: history, then a picture each second. Says when there is none, and goes on trying, ever more rarely.

import { call } from "./net.js";
import { events } from "./sse.js";

/** Samples kept: ten minutes, as the gateway does. */
const KEPT = 600;
/** A gateway that says nothing for so long is not there. */
const SILENCE = 5000;
/** A tab that nobody looks at gives its connection back: a browser has six for one host. */
const UNSEEN = 30_000;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;

/**
 * Calls `changed(feed)` whenever something is new. `feed.link` is `connecting`, `live` or `lost`; `feed.since` is when it was
 * lost, `feed.retryAt` when it is tried again, both in ms since 1970.
 */
export const follow = (changed) => {
  const feed = { link: "connecting", picture: null, samples: [], since: null, retryAt: null, why: null };
  let wait = FIRST_WAIT;
  let wake = () => {};

  const tell = (news) => {
    Object.assign(feed, news);
    changed(feed);
  };

  const take = ({ event, data }) => {
    const news = JSON.parse(data);
    if (event === "history") feed.samples = news.samples;
    if (event !== "picture") return;
    const last = feed.samples.at(-1);
    if (!last || news.sample.at_ms > last.at_ms) feed.samples.push(news.sample);
    if (feed.samples.length > KEPT) feed.samples.splice(0, feed.samples.length - KEPT);
    wait = FIRST_WAIT;
    tell({ link: "live", picture: news, since: null, retryAt: null, why: null });
  };

  const listen = async () => {
    const stop = new AbortController();
    let watchdog = 0;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => stop.abort(), SILENCE);
    };
    let unseen = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(unseen);
      if (document.hidden) unseen = setTimeout(() => stop.abort(), UNSEEN);
    }, { signal: stop.signal });
    try {
      const { body } = await call("/admin/events", { signal: stop.signal });
      alive();
      for await (const event of events(body)) {
        alive();
        take(event);
      }
    } finally {
      clearTimeout(watchdog);
      clearTimeout(unseen);
      stop.abort();
    }
  };

  const seen = () => new Promise((resolve) => {
    if (!document.hidden) resolve();
    else document.addEventListener("visibilitychange", resolve, { once: true });
  });

  const run = async () => {
    for (;;) {
      await seen();
      let why = "The gateway closed the connection.";
      try {
        await listen();
      } catch (error) {
        why = error.status ? error.message : "The gateway cannot be reached.";
      }
      if (document.hidden) continue;
      tell({ link: "lost", since: feed.since ?? Date.now(), retryAt: Date.now() + wait, why });
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, wait);
      });
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  };

  run();
  return { retry: () => wake() };
};
