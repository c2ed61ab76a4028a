// Metrics by step: the ones everybody looks at, any other by name, several runs beside each other.
import { useMemo, useState } from "preact/hooks";
import { runUrl, useAnswer } from "../api";
import { Chart, TONES, type Line, type Points } from "../chart";
import { Card, Choice, Empty, Segments, Wait } from "../parts";
import { go, href } from "../route";
import { duration, percent, tick, value } from "../words";
import type { PanelProps } from "../main";
import GROUPS from "../../../swerl/dashboard/panels.json";

export interface Validation { step: number; value: number | null; low: number | null; high: number | null; resolved: number; graded: number; trials: number; tasks: number;
  coverage: number; published: boolean; pass_at: Record<string, number>; outcomes: Record<string, number> }
interface Rate { step: number; value: number | null; low: number; high: number; groups: number; signal: number }
interface Compared { series: Record<string, Record<string, [number, number][]>>; config: { key: string; values: Record<string, unknown> }[] }

const unitOf = (kind: string) => kind === "seconds" ? duration : kind === "share" ? (v: number) => percent(v) : undefined;

export function Curves(props: PanelProps) {
  const { run, live, route } = props;
  const p = route.params;
  const set = (change: Record<string, string | undefined>) => go(href(run, "curves", { ...p, ...change }), true);
  const names = useAnswer<string[]>(runUrl(run, "names"), live.revision);
  const known = new Set(names.data ?? []);
  const extra = (p.metric ?? "").split(",").filter(Boolean);
  const others = (p.with ?? "").split(",").filter(Boolean);
  const groups = useMemo(() => GROUPS.map(({ title, curves }) => ({ title, curves: curves.filter((c) => known.has(c.name)) })).filter((group) => group.curves.length), [names.data]);
  const wanted = [...new Set([...groups.flatMap((group) => group.curves.map((c) => c.name)), ...extra, "swerl/val/resolve_rate"])];
  const single = useAnswer<Record<string, [number, number][]>>(names.data && !others.length ? runUrl(run, "series", { names: wanted.join(","), first: p.first, last: p.last }) : null, live.revision);
  const compared = useAnswer<Compared>(names.data && others.length ? `/api/compare?runs=${encodeURIComponent([run, ...others].join(","))}&names=${encodeURIComponent(wanted.join(","))}` : null, live.revision);
  const validations = useAnswer<Validation[]>(runUrl(run, "validations"), live.revision);
  const rates = useAnswer<Rate[]>(runUrl(run, "rates"), live.revision);
  const smooth = Number(p.smooth ?? 0), log = p.log === "1";
  const inRange = (x: number) => (!p.first || x >= Number(p.first)) && (!p.last || x <= Number(p.last));
  const lines = (name: string): Line[] => others.length
    ? [run, ...others].map((r, i) => ({ label: r, tone: TONES[i % TONES.length], points: (compared.data?.series[r]?.[name] ?? []).filter(([x]) => inRange(x)) }))
    : [{ label: name, tone: "t-teal", points: single.data?.[name] ?? [] }];
  const [word, setWord] = useState("");
  const found = word ? (names.data ?? []).filter((n) => n.toLowerCase().includes(word.toLowerCase()) && !extra.includes(n)).slice(0, 30) : [];
  const vs = (validations.data ?? []).filter((v) => inRange(v.step)), rs = (rates.data ?? []).filter((r) => inRange(r.step));

  return <div class="grid">
    <Card wide><div class="bar">
      <Choice label="Smoothing" value={String(smooth)} options={[["0", "none"], ["0.6", "a little"], ["0.9", "much"]]} onChange={(v) => set({ smooth: v === "0" ? undefined : v })} />
      <Segments label="Scale" value={log ? "1" : "0"} options={[["0", "linear"], ["1", "log"]]} onChange={(v) => set({ log: v === "1" ? "1" : undefined })} />
      <label class="choice"><span>Steps</span><input type="number" min="0" class="short" aria-label="First step" placeholder="first" value={p.first ?? ""} onChange={(e) => set({ first: (e.target as HTMLInputElement).value })} />
        <input type="number" min="0" class="short" aria-label="Last step" placeholder="last" value={p.last ?? ""} onChange={(e) => set({ last: (e.target as HTMLInputElement).value })} /></label>
      <label class="choice"><span>Compare with</span><select value="" onChange={(e) => { const v = (e.target as HTMLSelectElement).value; if (v) set({ with: [...others, v].join(",") }); }}>
        <option value="">{props.runs.length > 1 ? "choose a run" : "no other run"}</option>
        {props.runs.filter((r) => r.id !== run && !others.includes(r.id)).map((r) => <option key={r.id} value={r.id}>{r.id}</option>)}</select></label>
      {others.map((r) => <button key={r} type="button" class="chip" onClick={() => set({ with: others.filter((o) => o !== r).join(",") || undefined })} aria-label={`Remove ${r}`}>{r} ×</button>)}
      <span class="adder"><input type="search" placeholder="any metric by name" aria-label="Add a metric by name" value={word} onInput={(e) => setWord((e.target as HTMLInputElement).value)} />
        {found.length > 0 && <ul class="found">{found.map((n) => <li key={n}><button type="button" onClick={() => { set({ metric: [...extra, n].join(",") }); setWord(""); }}>{n}</button></li>)}</ul>}</span>
    </div></Card>

    {others.length > 0 && compared.data && <Card wide title="Configurations differ in" note={compared.data.config.length ? `${compared.data.config.length} keys` : "nothing"}>
      {compared.data.config.length > 0 && <div class="scroll tall"><table><thead><tr><th>key</th>{[run, ...others].map((r, i) => <th key={r}><i class={"swatch " + TONES[i % TONES.length]} />{r}</th>)}</tr></thead>
        <tbody>{compared.data.config.map((d) => <tr key={d.key}><td><code>{d.key}</code></td>{[run, ...others].map((r) => <td key={r}><code>{value(d.values[r])}</code></td>)}</tr>)}</tbody></table></div>}</Card>}

    {extra.length > 0 && <Card wide title="Chosen metrics"><div class="charts">{extra.map((name) => <div key={name} class="closable">
      <Chart title={name} lines={lines(name)} smooth={smooth} log={log} /><button type="button" class="plain close" aria-label={`Remove ${name}`} onClick={() => set({ metric: extra.filter((n) => n !== name).join(",") || undefined })}>×</button></div>)}</div></Card>}

    <Card wide title="What it learned"><div class="charts">
      {others.length ? <Chart title="Resolve rate, validation" lines={lines("swerl/val/resolve_rate")} unit={(v) => percent(v, 0)} zero />
        : <Chart title="Resolve rate, validation" note={vs.length ? `95 % interval, coverage ${percent(vs.at(-1)!.coverage, 0)}` : "no validation yet"} unit={(v) => percent(v, 0)} zero log={log}
          lines={[{ label: "resolve rate", tone: "t-teal", dots: true, points: vs.map((v) => [v.step, v.value]) as Points, low: vs.map((v) => [v.step, v.low]) as Points, high: vs.map((v) => [v.step, v.high]) as Points },
            ...passLines(vs)]} />}
      {!others.length && <Chart title="Resolved, training trials" note="95 % interval" unit={(v) => percent(v, 0)} zero smooth={smooth} log={log} lines={[{ label: "resolved", tone: "t-blue", points: rs.map((r) => [r.step, r.value]) as Points,
        low: rs.map((r) => [r.step, r.low]) as Points, high: rs.map((r) => [r.step, r.high]) as Points }]} />}
      {!others.length && <Chart title="Groups with a signal" unit={(v) => percent(v, 0)} zero smooth={smooth} lines={[{ label: "share of groups", tone: "t-amber", points: rs.map((r) => [r.step, r.groups ? r.signal / r.groups : null]) as Points }]} />}
    </div>
      {!others.length && vs.length > 0 && <div class="scroll"><table><thead><tr><th class="n">step</th><th class="n">resolve rate</th><th>95 % interval</th><th class="n">resolved</th><th class="n">graded</th><th class="n">coverage</th>{Object.keys(vs.at(-1)!.pass_at).map((k) => <th key={k} class="n">pass@{k}</th>)}</tr></thead>
        <tbody>{vs.slice(-12).map((v) => <tr key={v.step} class={v.published ? "" : "muted"}><td class="n">{v.step}</td><td class="n strong">{percent(v.value)}</td><td>{percent(v.low)} to {percent(v.high)}</td><td class="n">{v.resolved}</td><td class="n">{v.graded}</td>
          <td class="n">{percent(v.coverage, 0)}{v.published ? "" : " (thin)"}</td>{Object.keys(vs.at(-1)!.pass_at).map((k) => <td key={k} class="n">{percent(v.pass_at[k])}</td>)}</tr>)}</tbody></table></div>}
    </Card>

    <Wait of={names}>{(list) => list.length === 0 ? <Card wide><Empty>No step is done yet: metrics come with the first one.</Empty></Card> : <>
      {groups.map(({ title, curves }) => <Card wide key={title} title={title}><div class="charts">
        {curves.map(({ name, unit }) => <Chart key={name} title={name} lines={lines(name)} smooth={smooth} log={log} unit={unitOf(unit)} tick={unit === "seconds" ? tick : undefined} />)}</div></Card>)}</>}</Wait>
  </div>;
}

function passLines(vs: Validation[]): Line[] {
  const most = Math.max(0, ...vs.flatMap((v) => Object.keys(v.pass_at).map(Number)));
  return most > 1 ? [{ label: `pass@${most}`, tone: "t-purple", dash: true, points: vs.map((v) => [v.step, v.pass_at[String(most)] ?? null]) as Points }] : [];
}
