// What the Node scripts share: where the gateway is, and running every check whatever became of the others.

export const URL = process.env.SPILLWAY_URL;
export const MODEL = process.env.SPILLWAY_MODEL;
// A small model would fill a free text with whatever comes to it; it chooses.
export const CITY = process.env.SPILLWAY_SMALL ? { type: "string", enum: ["Bern", "Oslo"] } : { type: "string" };

export function assert(fact, what) {
  if (!fact) throw new Error(`not so: ${JSON.stringify(what)}`);
}

export async function run(checks) {
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
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
  const count = Object.keys(checks).length;
  console.log(`${count - failed} of ${count} passed`);
  process.exit(failed || !count ? 1 : 0);
}
