// Asking the server. Every answer is JSON; a run's revision, told by server-sent events, says when to ask again.
import { useEffect, useRef, useState } from "preact/hooks";

export type Params = Record<string, string | number | undefined | null>;
export interface Answer<T> { data: T | null; error: string | null; loading: boolean }
export interface Live { revision: number; behind: number; trouble: string; connected: boolean }

export function runUrl(run: string, view: string, params: Params = {}): string {
  const words = Object.entries(params).filter(([, v]) => v !== undefined && v !== null && v !== "")
    .map(([k, v]) => `${encodeURIComponent(k)}=${encodeURIComponent(String(v))}`);
  return `/api/run/${encodeURIComponent(run)}/${view}${words.length ? "?" + words.join("&") : ""}`;
}

export async function ask<T>(url: string, signal?: AbortSignal): Promise<T> {
  const answer = await fetch(url, { signal, headers: { Accept: "application/json" } });
  if (answer.ok) return await answer.json() as T;  // an answer that breaks off, or is no longer wanted, is none
  const body = await answer.json().catch(() => ({}));
  throw new Error(body.error ?? `the server answered ${answer.status}`);
}

/** The answer to `url`, asked again when `revision` changes; what was known stays until the new answer is there. */
export function useAnswer<T>(url: string | null, revision: number): Answer<T> {
  const [state, set] = useState<Answer<T> & { url: string | null }>({ data: null, error: null, loading: true, url });
  const asked = useRef(0);
  useEffect(() => {
    if (url === null) { set({ data: null, error: null, loading: false, url }); return; }
    const control = new AbortController();
    // live runs change several times a second: one question a second is enough
    const wait = Math.max(0, asked.current + 1000 - performance.now());
    const timer = setTimeout(() => {
      asked.current = performance.now();
      ask<T>(url, control.signal).then(
        (data) => set({ data, error: null, loading: false, url }),
        (error: Error) => { if (error.name !== "AbortError") set((old) => ({ ...old, error: error.message, loading: false })); },
      );
    }, state.url === url && state.data ? wait : 0);
    return () => { clearTimeout(timer); control.abort(); };
  }, [url, revision]);
  return state.url === url ? state : { data: null, error: null, loading: true };
}

export function useLive(run: string | null): Live {
  const [live, set] = useState<Live>({ revision: 0, behind: 0, trouble: "", connected: false });
  useEffect(() => {
    if (!run) return;
    const source = new EventSource(`/api/live?run=${encodeURIComponent(run)}`);
    source.onmessage = (event) => { const told = JSON.parse(event.data); set({ revision: told.revision, behind: told.behind, trouble: told.trouble, connected: true }); };
    source.onerror = () => set((old) => ({ ...old, connected: false }));
    return () => source.close();
  }, [run]);
  return live;
}
