// The console of a gateway with a local model, a simulated cloud and chaos, driven as people do. Prints a line for each part, "passed" at
// the end; fails with the first thing that is not so.

import { admin, api, check, closed, launched, opened, quiet, shots, step, until } from "./browser.mjs";
import { namesOf } from "./names.mjs";

const VIEWS = ["overview", "requests", "supervision", "playground", "keys"];
const PHONE = { width: 360, height: 740 };
const FIRST_PAINT_MS = 1000;
/** Between two requests of one client: traffic to watch, not a load test. */
const PACE_MS = 100;

const browser = await launched();
const traffic = { on: true, answered: 0 };

/** Easy requests are served here, the hard ones by the cloud. */
const keepAsking = async (content, stream) => {
  while (traffic.on) {
    const body = JSON.stringify({ messages: [{ role: "user", content }], max_tokens: 24, stream });
    const response = await fetch(`${api}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body });
    await response.text();
    if (response.ok) traffic.answered += 1;
    await new Promise((resolve) => { setTimeout(resolve, PACE_MS); });
  }
};

const paintsAtOnce = async () => {
  const paints = [];
  for (let nth = 0; nth < 3; nth += 1) {
    const page = await opened(browser);
    paints.push(await until(page, "a first paint", () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime));
    await closed(page);
  }
  // The page's own time: the least of three, because the machine may be busy.
  check(Math.min(...paints) < FIRST_PAINT_MS, `first paint after ${paints} ms`);
  console.log(`first paint: ${paints.map(Math.round)} ms`);
};

const showsEverything = async (page) => {
  const figure = (title) => until(page, title, (wanted) => {
    const card = [...document.querySelectorAll(".card")].find((one) => one.querySelector("h3").textContent === wanted);
    const text = card?.querySelector(".figure").textContent;
    return text && !["0", "–", "$0"].includes(text) ? text : null;
  }, title);
  for (const title of ["Answers per second", "Tokens per second", "Answers take", "In work", "Answered locally", "Spent", "Saved"]) await figure(title);
  await until(page, "charts are drawn", () => document.querySelectorAll(".charts .area, .charts .line").length >= 6);
  await until(page, "both kinds of latency", () => ["local", "cloud"].every((where) => Number(document.querySelector(`tr[data-key=${where}] td`).textContent) > 0));
  await until(page, "cost of both models", () => ["local/smollm2-135m", "sim/ok"].every((name) => document.querySelector(`tr[data-key="${name}"]`)));
  await until(page, "a warm target", () => document.querySelector('[data-key="gpu/local"] .state')?.textContent === "warm");
  await page.locator('[data-key="cloud/sim"]').getByText("answers").waitFor();
  await page.locator('[data-key="host"]').getByText("GiB").first().waitFor();
  check((await page.locator(".verdict h2").textContent()).startsWith("Serving"), "the verdict");
};

const explainsRequests = async () => {
  const page = await opened(browser, { view: "requests" });
  await page.locator("details summary").first().waitFor();
  await page.getByRole("button", { name: "Hold" }).press("Enter");
  await page.getByLabel("Find").fill("sim");
  await until(page, "only the cloud's requests", () => document.querySelectorAll("details").length > 0
    && [...document.querySelectorAll("details .by small")].every((target) => target.textContent.startsWith("sim")));
  await page.locator("details summary").first().focus();
  await page.keyboard.press("Enter");
  const first = page.locator("details").first();
  check((await first.locator(".why").textContent()).includes("complex"), "the reason is told");
  check(await first.locator(".attempts li").count() === 1, "its attempt is told");
  await closed(page);
};

const playsAndShowsTheRoute = async () => {
  const page = await opened(browser, { view: "playground" });
  await until(page, "models are offered", () => document.querySelectorAll("#model option").length >= 4);
  await page.getByLabel("Model", { exact: true }).selectOption("local");
  await page.getByLabel("Most tokens").fill("48");
  await page.getByLabel("Message").fill("Tell me about rivers");
  await page.evaluate(() => {
    const seen = new Set();
    window.seen = seen;
    new MutationObserver(() => seen.add(document.querySelector(".turn.assistant .text")?.textContent.length)).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  await page.keyboard.press("Enter");
  await page.locator(".turn .route .why").waitFor();
  check(await page.evaluate(() => window.seen.size) > 5, "the text comes in pieces");
  check((await page.locator(".turn .route").textContent()).includes("local"), "the route is shown");
  await page.getByLabel("Model", { exact: true }).selectOption("auto");
  await page.getByLabel("Message").fill("Analyze this");
  await page.getByRole("button", { name: "Explain only" }).click();
  await page.locator(".explained pre").filter({ hasText: "complex" }).waitFor();
  await closed(page);
};

const makesAndRevokesAKey = async () => {
  const page = await opened(browser, { view: "keys" });
  await page.getByLabel("Name", { exact: true }).fill("laptop");
  await page.getByLabel("Dollars a day").fill("2.50");
  await page.getByRole("button", { name: "Create key" }).click();
  const secret = await page.locator(".secret code").textContent();
  check(/^sk-spillway-/.test(secret), "a secret is shown");
  const models = () => fetch(`${api}/v1/models`, { headers: { authorization: `Bearer ${secret}` } });
  check((await models()).headers.get("x-ratelimit-limit-requests") !== undefined && (await models()).ok, "the key is known");
  await page.getByRole("button", { name: "Put away" }).click();
  check(!(await page.content()).includes(secret), "a secret that was put away is nowhere in the page");
  const row = page.locator("tr").filter({ hasText: "laptop" });
  await row.getByText("$0 of $2.5").waitFor();
  await row.getByRole("button", { name: "Revoke laptop" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  await row.getByText("revoked").waitFor();
  await page.reload();
  await row.getByText("revoked").waitFor();
  check(!(await page.content()).includes(secret), "a secret is shown once");
  await closed(page);
};

/** An order that is refused says why, in the server's words, and leaves what was typed; the next one that is not takes the words away. */
const saysWhyAKeyWasRefused = async () => {
  const page = await opened(browser, { view: "keys", expected: ["status of 400", "status of 503"] });
  const complaint = page.locator("#view-keys .said.bad");
  const create = () => page.getByRole("button", { name: "Create key" }).click();
  await page.getByLabel("Name", { exact: true }).fill("refused");
  for (const [field, wrong, word] of [["Dollars a day", "2,50", "budget"], ["Dollars a day", "-3", "budget"], ["Models", "no-such-model", "no-such-model"]]) {
    await page.getByLabel(field, { exact: true }).fill(wrong);
    await create();
    await complaint.filter({ hasText: word }).waitFor();
    check(await page.getByLabel(field, { exact: true }).inputValue() === wrong, "what was typed stays");
    await page.getByLabel(field, { exact: true }).fill("");
  }
  check(await page.locator("tr").filter({ hasText: "refused" }).count() === 0, "no key was made");
  await create();
  const row = page.locator("tr").filter({ hasText: "refused" });
  await row.waitFor();
  check(await complaint.count() === 0, "the words are gone");
  const refuse = (route) => (route.request().method() === "DELETE"
    ? route.fulfill({ status: 503, json: { error: { message: "the key store cannot be written" } } }) : route.fallback());
  await page.route("**/admin/keys/*", refuse);
  const revoke = async () => {
    await row.getByRole("button", { name: "Revoke refused" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
  };
  await revoke();
  await complaint.filter({ hasText: "the key store cannot be written" }).waitFor();
  await page.unroute("**/admin/keys/*", refuse);
  await revoke();
  await row.getByText("revoked").waitFor();
  check(await complaint.count() === 0, "the words are gone again");
  await closed(page);
};

const survivesChaos = async () => {
  const page = await opened(browser, { view: "supervision" });
  const restarts = (actor) => until(page, `${actor} is restarted`, (name) => {
    const leaf = document.querySelector(`.leaf[data-actor="${name}"]`);
    return leaf?.querySelector(".restarts.some") && leaf.querySelector(".cause").textContent && leaf.querySelector("[role=img]").getAttribute("aria-label") === "running";
  }, actor);
  const streamed = () => page.locator(".stream").textContent().then((text) => text.length);
  await page.getByRole("button", { name: "Start a long local stream" }).click();
  await until(page, "the stream begins", () => /\d+ pieces/.test(document.body.textContent));
  await page.getByRole("button", { name: "Kill: router" }).click();
  await restarts("router");
  const before = await streamed();
  await page.getByLabel("Chaos is enabled").selectOption("sigkill");
  check(await page.getByRole("button", { name: "SIGKILL engine: router" }).isDisabled(), "the router has no engine");
  await page.getByRole("button", { name: "SIGKILL engine: gpu/local" }).click();
  await until(page, "the stream goes on after its engine's death", (length) => document.querySelector(".stream").textContent.length > length + 40, before);
  await page.locator(".watch .attempts").waitFor();
  const attempts = await page.locator(".watch .attempts li").allTextContents();
  check(attempts.at(0).includes("engine died") && attempts.at(-1).includes("ok"), `both attempts are told: ${attempts}`);
  await page.getByLabel("Chaos is enabled").selectOption("call:cut");
  check(await page.getByRole("button", { name: "Cut answers: gpu/local" }).isDisabled(), "only calls of providers are cut");
  await page.getByRole("button", { name: "Cut answers: cloud/sim/0" }).click();
  await page.locator("#view-supervision > .said").filter({ hasText: "cut → calls of sim, for 10 s" }).waitFor();
  const faults = await (await fetch(`${admin}/admin/chaos/faults`)).json();
  check(faults.data.length === 1 && faults.data[0].target === "sim" && faults.data[0].kind === "cut", `the fault is in force: ${JSON.stringify(faults)}`);
  await fetch(`${admin}/admin/chaos/faults`, { method: "DELETE" });
  await page.getByRole("button", { name: "Keep 4 short requests going" }).click();
  await until(page, "short requests flow", () => /[1-9]\d* short requests? answered/.test(document.body.textContent));
  await page.getByRole("button", { name: "Stop the requests" }).click();
  await closed(page);
};

const isUsableByKeyboard = async () => {
  const page = await opened(browser);
  const focused = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.getAttribute("aria-label"));
  await page.locator(".figure").first().waitFor();
  await page.keyboard.press("Tab");
  check((await focused()).startsWith("Skip"), "the first stop leads past the bar");
  for (const name of ["Overview", "Requests", "Supervision", "Playground", "Keys"]) {
    await page.keyboard.press("Tab");
    check((await focused()) === name, `then ${name}, not ${await focused()}`);
  }
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "API keys" }).waitFor();
  check(await page.evaluate(() => document.activeElement.id) === "view-keys", "the view has the focus");
  check(await page.title() === "Keys · Spillway", "the title says where one is");
  await page.getByRole("button", { name: "Switch between light and dark" }).focus();
  const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
  const was = await theme();
  await page.keyboard.press("Space");
  check((await theme()) !== was, "the theme changes");
  await page.reload();
  check((await theme()) !== was, "and stays");
  await closed(page);
};

const fitsAPhone = async () => {
  const page = await opened(browser, { viewport: PHONE, isMobile: true, hasTouch: true });
  for (const view of VIEWS) {
    await page.evaluate((name) => { location.hash = name; }, view);
    await page.locator(`#view-${view} .panel`).first().waitFor();
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    check(wide <= PHONE.width, `${view} is ${wide} px wide on a phone`);
  }
  await closed(page);
};

const opensTheFirstViewForANameOfNone = async () => {
  for (const name of ["constructor", "toString", "__proto__", "no-such-view"]) {
    const page = await opened(browser, { view: name });
    await page.locator("#view-overview .figure").first().waitFor();
    check(await page.title() === "Overview · Spillway", `#${name} opens the overview`);
    await closed(page);
  }
};

const isDarkWhenWanted = async () => {
  const page = await opened(browser, { colorScheme: "dark" });
  const [red, green, blue] = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g).map(Number));
  check(red + green + blue < 120, `dark is ${red} ${green} ${blue}`);
  await closed(page);
};

const namesEverything = async () => {
  for (const view of VIEWS) {
    const page = await opened(browser, { view });
    await page.locator(`#view-${view} .panel`).first().waitFor();
    const nameless = await namesOf(page);
    check(nameless.length === 0, `${view} has controls or pictures without a name: ${nameless}`);
    await closed(page);
  }
};

const takesPictures = async () => {
  for (const [name, options] of [["console", {}], ["console-dark", { colorScheme: "dark" }], ["console-phone", { viewport: PHONE, deviceScaleFactor: 2 }]]) {
    const page = await opened(browser, options);
    await until(page, "charts are drawn", () => document.querySelectorAll(".charts .area, .charts .line").length >= 6);
    await page.screenshot({ path: `${shots}/${name}.png`, fullPage: name !== "console-phone" });
    await closed(page);
  }
};

try {
  await step("paint", paintsAtOnce);
  const asking = ["Say hello", "Analyze this"].flatMap((prompt) => [keepAsking(prompt, true), keepAsking(prompt, false)]);
  const page = await opened(browser);
  await step("overview", () => showsEverything(page));
  await closed(page);
  await step("requests", explainsRequests);
  await step("playground", playsAndShowsTheRoute);
  if (shots) await step("pictures", takesPictures);
  traffic.on = false;
  await Promise.all(asking);
  await step("keys", makesAndRevokesAKey);
  await step("refusals", saysWhyAKeyWasRefused);
  await step("chaos", survivesChaos);
  await step("keyboard", isUsableByKeyboard);
  await step("phone", fitsAPhone);
  await step("dark", isDarkWhenWanted);
  await step("hash", opensTheFirstViewForANameOfNone);
  await step("names", namesEverything);
  quiet();
  console.log(`${admin}: passed, beside ${traffic.answered} answered requests`);
} finally {
  traffic.on = false;
  await browser.close();
}
