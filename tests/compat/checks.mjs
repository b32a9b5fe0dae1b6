// What the Node scripts share: where the gateway is, and running every check whatever became of the others.

export const URL = process.env.SPILLWAY_URL;
export const MODEL = process.env.SPILLWAY_MODEL;
// What the model cannot do yet, by a word in the checks' names.
const without = (process.env.SPILLWAY_WITHOUT ?? "").split(" ").filter(Boolean);

export function assert(fact, what) {
  if (!fact) throw new Error(`not so: ${JSON.stringify(what)}`);
}

export async function run(checks) {
  let failed = 0;
  const leftOut = (name) => without.some((word) => name.toLowerCase().includes(word));
  const entries = Object.entries(checks).filter(([name]) => !leftOut(name));
  for (const [name, check] of entries) {
    const began = performance.now();
    let word = "ok";
    try {
      await check();
    } catch (error) {
      failed += 1;
      word = "FAILED";
      console.log(error);
    }
    console.log(`${word} ${name} (${((performance.now() - began) / 1000).toFixed(2)} s)`);
  }
  const count = entries.length;
  console.log(`${count - failed} of ${count} passed`);
  process.exit(failed || !count ? 1 : 0);
}
