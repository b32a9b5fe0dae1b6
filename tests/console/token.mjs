// The console of a gateway that wants its admin token, and of one that is away for a while.

import { check, closed, launched, opened, quiet, step, until } from "./browser.mjs";

const token = process.env.SPILLWAY_TOKEN;
const browser = await launched();

const asksOnce = async () => {
  const page = await opened(browser, { expected: ["401"] });
  const dialog = page.getByRole("dialog", { name: "Admin token" });
  await dialog.getByLabel("Token").fill("wrong");
  await page.keyboard.press("Enter");
  await dialog.getByText("does not know").waitFor();
  await dialog.getByLabel("Token").fill(token);
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Fleet" }).waitFor();
  await page.getByRole("link", { name: "Keys" }).click();
  await page.getByText("There is no key yet.").waitFor();
  await page.reload();
  await page.getByText("There is no key yet.").waitFor();
  check(await page.getByRole("dialog").count() === 0, "it is asked for once");
  check(await page.evaluate(() => localStorage.length) === 0, "it is kept for this tab only");
  await closed(page);
};

const saysWhenNobodyAnswers = async () => {
  const page = await opened(browser, {
    expected: ["ERR_FAILED"],
    before: async (fresh) => {
      await fresh.addInitScript((secret) => sessionStorage.setItem("spillway-admin-token", secret), token);
      await fresh.route("**/admin/events", (route) => route.abort());
    },
  });
  await page.getByRole("alert").getByText("No connection").waitFor();
  await page.getByRole("img", { name: "Not reachable" }).waitFor();
  await page.unroute("**/admin/events");
  await page.getByRole("button", { name: "Try now" }).click();
  await page.getByRole("heading", { name: "Fleet" }).waitFor();
  await until(page, "the alarm is over", () => !document.querySelector("[role=alert]"));
  await closed(page);
};

try {
  await step("token", asksOnce);
  await step("away", saysWhenNobodyAnswers);
  quiet();
  console.log("passed");
} finally {
  await browser.close();
}
