// Small parts that panels share.
import type { ComponentChildren } from "preact";
import { useCallback, useRef, useState } from "preact/hooks";
import type { Answer } from "./api";

export function Card(props: { title?: string; note?: ComponentChildren; tools?: ComponentChildren; wide?: boolean; children: ComponentChildren }) {
  return <section class={"card" + (props.wide ? " wide" : "")}>
    {(props.title || props.tools) && <header><h2>{props.title}</h2>{props.note && <span class="note">{props.note}</span>}
      {props.tools && <div class="tools">{props.tools}</div>}</header>}
    {props.children}
  </section>;
}

export function Empty(props: { children: ComponentChildren }) { return <p class="empty">{props.children}</p>; }

/** What to show while there is no answer; `children` gets it when there is. */
export function Wait<T>(props: { of: Answer<T>; children: (data: T) => ComponentChildren }) {
  if (props.of.data !== null) return <>{props.children(props.of.data)}</>;
  if (props.of.error) return <p class="empty" role="alert">This could not be read: {props.of.error}.</p>;
  return <p class="empty" aria-busy="true">Reading…</p>;
}

export function Figure(props: { label: string; children: ComponentChildren; note?: ComponentChildren }) {
  return <div class="figure"><dt>{props.label}</dt><dd>{props.children}{props.note && <small>{props.note}</small>}</dd></div>;
}

export function Choice(props: { label: string; value: string; options: readonly (readonly [string, string])[]; onChange: (value: string) => void }) {
  return <label class="choice"><span>{props.label}</span>
    <select value={props.value} onChange={(e) => props.onChange((e.target as HTMLSelectElement).value)}>
      {props.options.map(([value, label]) => <option key={value} value={value}>{label}</option>)}
    </select></label>;
}

export function Segments(props: { label: string; value: string; options: readonly (readonly [string, string])[]; onChange: (value: string) => void }) {
  return <div class="segments" role="radiogroup" aria-label={props.label}>
    {props.options.map(([value, label]) => <button key={value} type="button" role="radio" aria-checked={props.value === value}
      class={props.value === value ? "on" : ""} onClick={() => props.onChange(value)}>{label}</button>)}
  </div>;
}

export const Key = (props: { items: readonly (readonly [string, string])[] }) =>
  <ul class="key">{props.items.map(([label, tone]) => <li key={label}><i class={"swatch " + tone} />{label}</li>)}</ul>;

/** A bar of parts; widths are shares. */
export function Shares(props: { parts: readonly { label: string; tone: string; share: number }[] }) {
  return <div class="shares" role="img" aria-label={props.parts.map((p) => `${p.label} ${(100 * p.share).toFixed(1)} %`).join(", ")}>
    {props.parts.filter((p) => p.share > 0).map((p) => <i key={p.label} class={"tone " + p.tone} style={{ width: `${100 * p.share}%` }}
      title={`${p.label}: ${(100 * p.share).toFixed(1)} %`} />)}
  </div>;
}

/** The width of an element, followed. */
export function useWidth<E extends HTMLElement>(): [(element: E | null) => void, number, { current: E | null }] {
  const at = useRef<E | null>(null), observer = useRef<ResizeObserver | null>(null);
  const [width, set] = useState(0);
  const follow = useCallback((element: E | null) => {
    observer.current?.disconnect();
    at.current = element;
    if (!element) return;
    observer.current = new ResizeObserver(([entry]) => set(Math.floor(entry.contentRect.width)));
    observer.current.observe(element);
  }, []);
  return [follow, width, at];
}

export const FATES: Record<string, string> = {
  trained: "t-teal", "no signal": "t-grey", masked: "t-amber", killed: "t-purple", failed: "t-red", superseded: "t-brown",
  "run again": "t-pink", validation: "t-blue", other: "t-faint",
};
export const OUTCOMES: Record<string, string> = {
  completed: "t-teal", max_turns: "t-blue", context_overflow: "t-amber", agent_timeout: "t-brown", agent_error: "t-pink",
  verifier_timeout: "t-violet", env_failed: "t-orange", infra_failed: "t-red", tail_killed: "t-purple", cancelled: "t-grey", lost: "t-faint",
};

export function Verdict(props: { reward: number | null; outcome: string | null }) {
  if (props.outcome === null) return <span class="verdict running">running</span>;
  if (props.reward === null) return <span class="verdict none">no verdict</span>;
  return props.reward >= 1 ? <span class="verdict good">resolved</span> : <span class="verdict bad">{props.reward > 0 ? `reward ${props.reward.toFixed(2)}` : "not resolved"}</span>;
}
