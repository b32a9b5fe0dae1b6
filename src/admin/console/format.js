// Numbers, times and money as people read them. Pure.

const NONE = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** Three significant digits at most: 0.42, 3.1, 27, 1,240, 1.2 M. */
export const num = (value) => {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en-US");
  return value.toFixed(size >= 10 ? 1 : 2).replace(/\.?0+$/, "") || "0";
};

export const count = (value, one, many = `${one}s`) => `${num(value)} ${value === 1 ? one : many}`;

export const ms = (value) => {
  if (!known(value)) return NONE;
  if (value >= 60_000) return `${(value / 60_000).toFixed(1)} min`;
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10_000 ? 1 : 2)} s`;
  return `${value >= 100 ? Math.round(value) : value.toFixed(1)} ms`;
};

/** Seconds, roughly: 8 s, 3 min, 2 h 10 min, 4 d. */
export const span = (seconds) => {
  if (!known(seconds)) return NONE;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d`;
};

export const percent = (part) => (known(part) ? `${(part * 100).toFixed(part > 0 && part < 0.1 ? 1 : 0)} %` : NONE);

/** Dollars, with as many digits as it takes to be more than nothing. */
export const usd = (value) => {
  if (!known(value)) return NONE;
  if (value === 0) return "$0";
  const digits = Math.abs(value) >= 1 ? 2 : Math.min(9, 1 - Math.floor(Math.log10(Math.abs(value))));
  return `$${value.toFixed(Math.max(2, digits))}`;
};
export const nanousd = (value) => (known(value) ? usd(value / 1e9) : NONE);

export const bytes = (value) => {
  if (!known(value)) return NONE;
  const steps = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let rest = value;
  while (rest >= 1024 && at < steps.length - 1) { rest /= 1024; at += 1; }
  return `${rest >= 100 || at === 0 ? Math.round(rest) : rest.toFixed(1)} ${steps[at]}`;
};

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
export const clock = (unixMs) => CLOCK.format(new Date(unixMs));
export const date = (unixSeconds) => (known(unixSeconds) ? DATE.format(new Date(unixSeconds * 1000)) : NONE);

/** Words of the wire for people: "client_gone" → "client gone". */
export const words = (text) => String(text ?? NONE).replaceAll("_", " ");
