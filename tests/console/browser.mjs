// A real browser, and what is held against every page it opens: no complaint on the console, no request to another host.

import { chromium } from "playwright-core";
import { access } from "node:fs/promises";

export const admin = process.env.SPILLWAY_ADMIN;
export const api = process.env.SPILLWAY_API;
/** Folder for screenshots; unset for none. */
export const shots = process.env.SPILLWAY_SHOTS;
const CANDIDATES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
/** For everything that a busy machine may delay. */
export const PATIENCE = 60_000;

export const check = (fact, what) => {
  if (!fact) throw new Error(what);
};

const installed = async () => {
  for (const path of [process.env.SPILLWAY_CHROMIUM, ...CANDIDATES].filter(Boolean)) {
    if (await access(path).then(() => true, () => false)) return path;
  }
  throw new Error("no Chromium here: `make test` installs it, or name one in SPILLWAY_CHROMIUM");
};

export const launched = async () => chromium.launch({
  executablePath: await installed(),
  // Root has no sandbox; a container's /dev/shm is small.
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
});

const complaints = [];

/** A page of its own context. What it complains of is kept, but for `expected`. */
export const opened = async (browser, { view = "overview", expected = [], before, ...options } = {}) => {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const complain = (text) => {
    if (!expected.some((known) => text.includes(known))) complaints.push(`${view}: ${text}`);
  };
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complain(message.text()));
  page.on("pageerror", (error) => complain(error.stack));
  page.on("request", (request) => {
    if (new URL(request.url()).origin !== new URL(admin).origin) complain(`asks ${request.url()}`);
  });
  await before?.(page);
  await page.goto(`${admin}/console#${view}`);
  return page;
};

export const closed = (page) => page.context().close();

export const quiet = () => check(complaints.length === 0, `the page complains:\n${complaints.join("\n")}`);

/** Waits until `look` finds something in the page. */
export const until = (page, what, look, argument, polling = 50) => page.waitForFunction(look, argument, { timeout: PATIENCE, polling })
  .then((handle) => handle.jsonValue(), (error) => { throw new Error(`${what}: ${error.message}`); });

export const step = async (name, work) => {
  const began = performance.now();
  await work();
  console.log(`${name}: ${Math.round(performance.now() - began)} ms`);
};
