// Logs by process: the end of them, followed; pages before; search.
import { useEffect, useRef, useState } from "preact/hooks";
import { ask, runUrl, useAnswer } from "../api";
import { Card, Choice, Empty, Wait } from "../parts";
import { go, href } from "../route";
import { bytes } from "../words";
import type { PanelProps } from "../main";

interface Page { start: number; end: number; size: number; lines: string[] }
interface Found { matches: number; lines: { start: number; line: string }[]; whole: boolean }

const SEVERE = /\b(ERROR|CRITICAL|FATAL)\b|Traceback|(?:Error|Exception)(?::|$)|SWERL-[A-Z]\d{3}/, WARN = /\bWARN(?:ING)?\b/;
const tone = (line: string) => SEVERE.test(line) ? "bad" : WARN.test(line) ? "warn" : "";

export function Logs(props: PanelProps) {
  const p = props.route.params;
  const logs = useAnswer<{ name: string; file: string; bytes: number }[]>(runUrl(props.run, "logs"), props.live.revision);
  const name = p.log && logs.data?.some((l) => l.name === p.log) ? p.log : logs.data?.find((l) => l.name === "trainer")?.name ?? logs.data?.[0]?.name;
  const set = (change: Record<string, string | undefined>) => go(href(props.run, "logs", { ...p, ...change }), true);
  return <div class="grid"><Wait of={logs}>{(list) => list.length === 0 ? <Card wide><Empty>No process has written a log yet.</Empty></Card> :
    <Card wide title="Logs" tools={<>
      <Choice label="Process" value={name ?? ""} options={list.map((l) => [l.name, `${l.name} (${bytes(l.bytes)})`] as const)} onChange={(v) => set({ log: v, at: undefined })} />
      <input type="search" placeholder="search the log" aria-label="Search the log" value={p.search ?? ""} onChange={(e) => set({ search: (e.target as HTMLInputElement).value || undefined, at: undefined })} /></>}>
      {name && (p.search ? <Search key={name + p.search} run={props.run} name={name} text={p.search} onOpen={(at) => set({ search: undefined, at: String(at) })} /> : <Reader key={name + (p.at ?? "")} run={props.run} name={name} at={p.at} revision={props.live.revision} onEnd={() => set({ at: undefined })} />)}
    </Card>}</Wait></div>;
}

function Search(props: { run: string; name: string; text: string; onOpen: (at: number) => void }) {
  const found = useAnswer<Found>(runUrl(props.run, "log", { name: props.name, search: props.text }), 0);
  return <Wait of={found}>{(data) => data.matches === 0 ? <Empty>No line holds “{props.text}”.</Empty> : <>
    <p class="note">{data.matches} lines{data.matches > data.lines.length ? `, the newest ${data.lines.length} shown` : ", newest first"}{data.whole ? "" : "; only the last part of this large log was searched"}</p>
    <ol class="log found">{data.lines.map((l) => <li key={l.start} class={tone(l.line)}><button type="button" onClick={() => props.onOpen(l.start)}>{l.line || " "}</button></li>)}</ol></>}</Wait>;
}

function Reader(props: { run: string; name: string; at?: string; revision: number; onEnd: () => void }) {
  const [pages, setPages] = useState<Page[]>([]);
  const [error, setError] = useState<string | null>(null);
  const [follow, setFollow] = useState(!props.at);
  const box = useRef<HTMLDivElement | null>(null);
  const load = (params: Record<string, number | string>) => ask<Page>(runUrl(props.run, "log", { name: props.name, ...params }));
  useEffect(() => { load(props.at ? { start: props.at } : {}).then((page) => setPages([page]), (e: Error) => setError(e.message)); }, []);
  useEffect(() => { // what came since
    const timer = setInterval(() => {
      const last = pages.at(-1);
      if (!follow || !last) return;
      load({ start: last.end }).then((page) => { if (page.lines.length) setPages((old) => [...old, page].slice(-20)); }, () => undefined);
    }, 1500);
    return () => clearInterval(timer);
  }, [pages, follow]);
  useEffect(() => { if (follow && box.current) box.current.scrollTop = box.current.scrollHeight; }, [pages]);
  if (error) return <Empty>This could not be read: {error}.</Empty>;
  const first = pages[0], last = pages.at(-1);
  const before = () => first && load({ end: first.start }).then((page) => { setFollow(false); setPages((old) => [page, ...old].slice(0, 20)); });
  return <>
    <div class="bar"><button type="button" disabled={!first || first.start === 0} onClick={before}>Earlier lines</button>
      {last && last.end < last.size && props.at && <button type="button" onClick={() => load({ start: last.end }).then((page) => setPages((old) => [...old, page].slice(-20)))}>Later lines</button>}
      {props.at ? <button type="button" onClick={props.onEnd}>To the end</button> : <label class="check"><input type="checkbox" checked={follow} onChange={(e) => setFollow((e.target as HTMLInputElement).checked)} /> follow</label>}
      <span class="note">{last ? `${bytes(last.end)} of ${bytes(last.size)}` : ""}</span></div>
    <div class="log" ref={box} tabIndex={0} role="log" aria-label={`Log of ${props.name}`} aria-live="off">
      {pages.length > 0 && pages.every((page) => page.lines.length === 0) && <Empty>The log is empty.</Empty>}
      {pages.map((page) => page.lines.map((line, i) => <div key={`${page.start}-${i}`} class={tone(line)}>{line || " "}</div>))}</div></>;
}
