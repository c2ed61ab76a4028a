// Where the reader is: `#/<run>/<panel>?key=value`. Everything that can be linked to is in it.
import { useEffect, useState } from "preact/hooks";

export interface Route { run: string | null; panel: string; params: Record<string, string> }

export function parse(hash: string): Route {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [run, panel] = path.split("/").map(decodeURIComponent);
  return { run: run || null, panel: panel || "overview", params: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

export function href(run: string | null, panel: string, params: Record<string, string | number | undefined | null> = {}): string {
  const words = new URLSearchParams();
  for (const [k, v] of Object.entries(params)) if (v !== undefined && v !== null && v !== "") words.set(k, String(v));
  const query = words.toString();
  return `#/${encodeURIComponent(run ?? "")}/${panel}${query ? "?" + query : ""}`;
}

export function go(to: string, replace = false): void {
  if (replace) { history.replaceState(null, "", to); dispatchEvent(new HashChangeEvent("hashchange")); } else location.hash = to;
}

export function useRoute(): Route {
  const [route, set] = useState(parse(location.hash));
  useEffect(() => {
    const changed = () => set(parse(location.hash));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}
