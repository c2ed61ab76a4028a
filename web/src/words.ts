// Numbers and times as a person reads them.
const NONE = "–";

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !isFinite(seconds)) return NONE;
  if (seconds === 0) return "0 s";
  if (seconds < 0.95) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 59.5) return `${seconds.toFixed(seconds < 9.95 ? 1 : 0)} s`;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A duration in the width of an axis' label. */
export function tick(seconds: number): string {
  if (seconds === 0) return "0";
  if (seconds < 0.95) return `${(seconds * 1000).toFixed(0)} ms`;
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  return seconds < 7200 ? `${Number((seconds / 60).toPrecision(3))} min` : `${Number((seconds / 3600).toPrecision(3))} h`;
}

export function number(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined || !isFinite(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e4 || size < 1e-3) return size >= 1e4 && size < 1e15 ? count(value) : value.toExponential(2);
  return Number(value.toPrecision(digits)).toString();
}

export function count(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]] as const)
    if (size >= unit) return `${(value / (name === "k" ? 1e3 : unit)).toFixed(size / unit >= 100 ? 0 : 1)} ${name}`;
  return Math.round(value).toLocaleString("en").replace(/,/g, " ");
}

export const percent = (value: number | null | undefined, digits = 1) =>
  value === null || value === undefined || !isFinite(value) ? NONE : `${(100 * value).toFixed(digits)} %`;

export const bytes = (value: number | null | undefined) => {
  if (value === null || value === undefined) return NONE;
  for (const [unit, name] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]] as const)
    if (value >= unit) return `${(value / unit).toFixed(value / unit >= 100 ? 0 : 1)} ${name}`;
  return `${value} B`;
};

export const clock = (seconds: number | null | undefined) =>
  seconds ? new Date(seconds * 1000).toLocaleTimeString("en-GB") : NONE;
export const day = (seconds: number | null | undefined) => {
  if (!seconds) return NONE;
  const at = new Date(seconds * 1000), two = (n: number) => String(n).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
};

/** A value of the configuration, short. */
export const value = (v: unknown): string => v === null || v === undefined || v === "" ? "none" : typeof v === "string" ? v : JSON.stringify(v);
