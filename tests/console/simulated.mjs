// The console of a gateway whose engine is simulated: a process like every other, so whatever can befall one can be ordered.

import { check, closed, launched, opened, quiet, step, until } from "./browser.mjs";

const browser = await launched();

const breaksASimulatedEngine = async () => {
  // Who orders the second death while the engine comes back from the first is told that nobody is there.
  const page = await opened(browser, { view: "supervision", expected: ["status of 409"] });
  const ways = await page.getByLabel("Chaos is enabled").locator("optgroup").nth(1).locator("option").evaluateAll((options) => options.map((option) => option.value));
  check(ways.join(" ") === "sigkill sigabrt sigstop exit garbage half-frame hang-decode out-of-memory", `every way there is: ${ways}`);
  for (const [way, verb] of [["sigkill", "SIGKILL engine"], ["out-of-memory", "Out of memory"]]) {
    await page.getByLabel("Chaos is enabled").selectOption(way);
    check(await page.getByRole("button", { name: `${verb}: router` }).isDisabled(), "the router has no engine");
    const button = page.getByRole("button", { name: `${verb}: gpu/local` });
    check(await button.isEnabled(), `${way} can be ordered`);
    await until(page, `${way} was ordered`, (named) => {
      const said = document.querySelector("#view-supervision > .said").textContent;
      if (said === `${named} → gpu/local`) return true;
      document.querySelector('button[data-actor="gpu/local"]').click();
      return false;
    }, way, 500);
  }
  await closed(page);
};

try {
  await step("simulated", breaksASimulatedEngine);
  quiet();
  console.log("passed");
} finally {
  await browser.close();
}
