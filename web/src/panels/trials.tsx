// Trials: how they ended, where their time went, a list to choose from, and what the tail-killer decided.
import { useRef, useState } from "preact/hooks";
import { runUrl, useAnswer } from "../api";
import { Stack } from "../chart";
import { Card, Choice, Empty, FATES, Key, OUTCOMES, Segments, Verdict, Wait, useWidth } from "../parts";
import { go, href } from "../route";
import { count, duration } from "../words";
import type { PanelProps } from "../main";

interface StepSum { step: number; trials: number; outcomes: Record<string, number>; fates: Record<string, number>; mean: Record<string, number> }
interface Row { key: string; split: string; task: string; task_id: string | null; sample: number; step: number; attempt: number; outcome: string | null; reward: number | null; turns: number | null; attempts: number | null;
  total_s: number | null; sampled_tokens: number | null; error: string | null; findings: number; fate: string | null; settled: number | null }
interface Bar { key: string; task_id: string; sample: number; outcome: string; fate: string; reward: number | null; at: number; queue_s: number; setup_s: number; model_s: number | null; tools_s: number | null;
  hold_s: number; agent_s: number; verifier_s: number; attempts_s: number; total_s: number }
interface Cut { step: number; time: number; done: number; spared: number; step_saved_s: number | null; cost_s: number; cost_tokens: number;
  killed: { key: string | null; task_id: string; sample: string; ran_s: number; why: string; decided: boolean; saved_s: number | null; turns: number | null; sampled_tokens: number | null }[] }

const ORDERS = [["newest", "newest"], ["slowest", "slowest"], ["turns", "most turns"], ["tokens", "most tokens"], ["reward", "highest reward"]] as const;
const PAGE = 50;

export function Trials(props: PanelProps) {
  const { run, live, route } = props, p = route.params;
  const split = p.split === "val" ? "val" : "train";
  const set = (change: Record<string, string | number | undefined>) => go(href(run, "trials", { ...p, page: undefined, ...change }), true);
  const steps = useAnswer<StepSum[]>(runUrl(run, "steps", { split }), live.revision);
  const [by, setBy] = useState<"outcomes" | "fates">("outcomes");
  const step = p.step !== undefined ? Number(p.step) : steps.data?.at(-1)?.step ?? null;
  const page = Number(p.page ?? 0);
  const list = useAnswer<{ total: number; trials: Row[] }>(runUrl(run, "trials", { split, step: p.step, outcome: p.outcome, fate: p.fate, task: p.task, findings: p.findings, resolved: p.resolved, text: p.text,
    order: p.order ?? "newest", limit: PAGE, offset: page * PAGE }), live.revision);
  const names = Object.keys(by === "outcomes" ? OUTCOMES : FATES);
  const active = (["step", "outcome", "fate", "task", "findings", "resolved", "text"] as const).filter((name) => p[name] !== undefined);
  return <div class="grid">
    <Card wide tools={<><Segments label="Split" value={split} options={[["train", "training"], ["val", "validation"]]} onChange={(v) => go(href(run, "trials", { split: v }))} />
      <Segments label="Bars by" value={by} options={[["outcomes", "outcome"], ["fates", "what became of them"]]} onChange={(v) => setBy(v as "fates")} /></>} title="Trials by step">
      <Wait of={steps}>{(data) => data.length === 0 ? <Empty>No {split === "val" ? "validation" : "training"} trial has settled yet.</Empty> :
        <Stack title="trials" steps={data.map((s) => s.step)} unit={count} onPick={(s) => set({ step: s })} picked={p.step !== undefined ? Number(p.step) : null}
          parts={names.map((name) => ({ label: name, tone: (by === "outcomes" ? OUTCOMES : FATES)[name], values: data.map((s) => s[by][name] ?? 0) }))} />}</Wait>
    </Card>
    {step !== null && <Timeline run={run} split={split} step={step} revision={live.revision} steps={steps.data?.map((s) => s.step) ?? []} onStep={(s) => set({ step: s })} />}
    <Card wide title={list.data ? `${count(list.data.total)} trials` : "Trials"} tools={<>
      {active.map((name) => <button key={name} type="button" class="chip" onClick={() => set({ [name]: undefined })} aria-label={`Remove the filter ${name}`}>{name === "task" ? list.data?.trials[0]?.task_id ?? "task" : `${name} ${p[name]}`} ×</button>)}
      <Choice label="Outcome" value={p.outcome ?? ""} options={[["", "any"], ...Object.keys(OUTCOMES).map((o) => [o, o] as const)]} onChange={(v) => set({ outcome: v || undefined })} />
      <Choice label="Order" value={p.order ?? "newest"} options={ORDERS} onChange={(v) => set({ order: v })} />
      <input type="search" aria-label="Search trials by name or error" placeholder="name or error" value={p.text ?? ""} onChange={(e) => set({ text: (e.target as HTMLInputElement).value || undefined })} /></>}>
      <Wait of={list}>{(data) => data.trials.length === 0 ? <Empty>No trial fits.</Empty> : <>
        <div class="scroll"><table class="hover"><thead><tr><th>trial</th><th class="n">step</th><th>verdict</th><th>outcome</th><th>became</th><th class="n">turns</th><th class="n">tokens</th><th class="n">took</th><th>notes</th></tr></thead>
          <tbody>{data.trials.map((t) => <tr key={t.key}><td><a href={href(run, "trial", { key: t.key })}>{t.task_id ?? t.key}<span class="muted"> #{t.sample}</span></a></td><td class="n">{t.step}</td>
            <td><Verdict reward={t.reward} outcome={t.outcome} /></td><td>{t.outcome ?? "–"}</td><td>{t.fate ?? "–"}</td><td class="n">{t.turns ?? "–"}</td><td class="n">{count(t.sampled_tokens)}</td><td class="n">{duration(t.total_s)}</td>
            <td class="clip">{t.findings > 0 && <span class="flag">{t.findings} findings</span>}{(t.attempts ?? 1) > 1 && <span class="flag">{t.attempts} attempts</span>}<span class="muted" title={t.error ?? ""}>{t.error ?? ""}</span></td></tr>)}</tbody></table></div>
        {data.total > PAGE && <div class="bar"><span class="pager"><button type="button" disabled={page === 0} onClick={() => set({ page: page - 1 })}>Previous</button> {count(page * PAGE + 1)} to {count(Math.min(data.total, (page + 1) * PAGE))} <button type="button" disabled={(page + 1) * PAGE >= data.total} onClick={() => set({ page: page + 1 })}>Next</button></span></div>}</>}</Wait>
    </Card>
    {split === "train" && <Tail run={run} revision={live.revision} />}
  </div>;
}

const PHASES = [["earlier attempts", "t-pink"], ["queue", "t-faint"], ["set-up", "t-blue"], ["model", "t-teal"], ["tools", "t-amber"], ["agent", "t-teal"], ["engine away", "t-grey"], ["verifier", "t-purple"]] as const;
const segments = (b: Bar): [string, number][] => [["earlier attempts", b.attempts_s], ["queue", b.queue_s], ["set-up", b.setup_s],
  ...(b.model_s === null ? [["agent", Math.max(0, b.agent_s - b.hold_s)] as [string, number]] : [["model", b.model_s] as [string, number], ["tools", b.tools_s!] as [string, number]]), ["engine away", b.hold_s], ["verifier", b.verifier_s]];

function Timeline(props: { run: string; split: string; step: number; revision: number; steps: number[]; onStep: (step: number) => void }) {
  const line = useAnswer<{ trials: Bar[] }>(runUrl(props.run, "timeline", { split: props.split, step: props.step }), props.revision);
  const [box, width] = useWidth<HTMLDivElement>();
  const [sort, setSort] = useState("start");
  const told = useRef<HTMLParagraphElement | null>(null);
  const at = props.steps.indexOf(props.step);
  return <Card wide title={`Step ${props.step}, trial by trial`} tools={<>
    <Segments label="Order of the bars" value={sort} options={[["start", "by start"], ["slowest", "slowest first"]]} onChange={setSort} />
    <span class="pager"><button type="button" aria-label="Step before" disabled={at <= 0} onClick={() => props.onStep(props.steps[at - 1])}>‹</button><button type="button" aria-label="Step after" disabled={at < 0 || at >= props.steps.length - 1} onClick={() => props.onStep(props.steps[at + 1])}>›</button></span></>}>
    <Wait of={line}>{(data) => {
      if (!data.trials.length) return <Empty>No trial of this step has settled yet.</Empty>;
      const bars = [...data.trials].sort((a, b) => sort === "start" ? a.at - b.at : b.total_s - a.total_s);
      const row = bars.length > 200 ? 2 : bars.length > 80 ? 4 : 8, gap = row > 3 ? 1 : 0, height = bars.length * (row + gap);
      const end = Math.max(...bars.map((b) => (sort === "start" ? b.at : 0) + b.total_s)), scale = width / (end || 1);
      const paths: Record<string, string> = {};
      bars.forEach((b, i) => {
        let x = sort === "start" ? b.at : 0;
        for (const [name, s] of segments(b)) { if (s > 0) paths[name] = (paths[name] ?? "") + `M${(x * scale).toFixed(1)} ${i * (row + gap)}h${Math.max(0.4, s * scale).toFixed(1)}v${row}h-${Math.max(0.4, s * scale).toFixed(1)}z`; x += s; }
      });
      const hit = (e: MouseEvent) => bars[Math.floor(e.offsetY / (row + gap))];
      return <>
        <div ref={box} class="timeline" role="img" aria-label={`${bars.length} trials; the longest took ${duration(Math.max(...bars.map((b) => b.total_s)))}. The table below lists the slowest.`}>
          {width > 0 && <svg width={width} height={height} onMouseMove={(e) => { const b = hit(e); if (told.current) told.current.textContent = b ? `${b.task_id} #${b.sample}: ${b.outcome}, ${duration(b.total_s)} (${segments(b).filter(([, s]) => s > 0).map(([n, s]) => `${n} ${duration(s)}`).join(", ")})` : ""; }}
            onClick={(e) => { const b = hit(e); if (b) go(href(props.run, "trial", { key: b.key })); }}>{PHASES.map(([name, tone]) => paths[name] && <path key={name} class={"fill " + tone} d={paths[name]} />)}</svg>}
        </div>
        <div class="scalebar" aria-hidden="true"><span>0</span><span>{duration(end / 2)}</span><span>{duration(end)}</span></div>
        <p class="readout" ref={told}>a bar leads to its trial</p>
        <Key items={PHASES.filter(([name]) => paths[name])} />
        <details><summary>The ten slowest</summary><div class="scroll"><table><thead><tr><th>trial</th><th>outcome</th>{["queue", "set-up", "model", "tools", "away", "verifier", "all"].map((n) => <th key={n} class="n">{n}</th>)}</tr></thead>
          <tbody>{[...data.trials].sort((a, b) => b.total_s - a.total_s).slice(0, 10).map((b) => <tr key={b.key}><td><a href={href(props.run, "trial", { key: b.key })}>{b.task_id} #{b.sample}</a></td><td>{b.outcome}</td>
            <td class="n">{duration(b.queue_s)}</td><td class="n">{duration(b.setup_s)}</td><td class="n">{b.model_s === null ? duration(b.agent_s) : duration(b.model_s)}</td><td class="n">{duration(b.tools_s)}</td><td class="n">{duration(b.hold_s)}</td><td class="n">{duration(b.verifier_s)}</td><td class="n strong">{duration(b.total_s)}</td></tr>)}</tbody></table></div></details></>;
    }}</Wait></Card>;
}

function Tail(props: { run: string; revision: number }) {
  const tail = useAnswer<{ target: number | null; grace_s: number | null; min_trials: number | null; cuts: Cut[] }>(runUrl(props.run, "tail"), props.revision);
  return <Card wide title="Tail-killer" note={tail.data ? tail.data.target === null || tail.data.target >= 1 ? "off (harbor_runtime.tail_kill_target is 1)" : `after ${Math.round(100 * tail.data.target)} % of a step and ${tail.data.grace_s} s` : undefined}>
    <Wait of={tail}>{(data) => data.cuts.length === 0 ? <Empty>{data.target === null || data.target >= 1 ? "Every trial may run to its end." : "No step has had a tail worth cutting."} When trials are ended, this says which, why, the time that saved and what was thrown away.</Empty> : <>
      <dl class="figures"><div class="figure"><dt>Ended</dt><dd>{data.cuts.reduce((n, c) => n + c.killed.length, 0)}<small>trials in {data.cuts.length} steps</small></dd></div>
        <div class="figure"><dt>Saved, estimated</dt><dd>{duration(data.cuts.reduce((n, c) => n + (c.step_saved_s ?? 0), 0))}<small>of waiting</small></dd></div>
        <div class="figure"><dt>Thrown away</dt><dd>{duration(data.cuts.reduce((n, c) => n + c.cost_s, 0))}<small>of trials, {count(data.cuts.reduce((n, c) => n + c.cost_tokens, 0))} tokens</small></dd></div></dl>
      <div class="scroll tall"><table class="hover"><thead><tr><th class="n">step</th><th>trial</th><th>why</th><th class="n">had run</th><th class="n">saved, estimated</th><th class="n">tokens lost</th></tr></thead>
        <tbody>{[...data.cuts].reverse().flatMap((cut) => cut.killed.map((k) => <tr key={`${cut.step} ${k.task_id} ${k.sample}`}><td class="n">{cut.step}</td><td>{k.key ? <a href={href(props.run, "trial", { key: k.key })}>{k.task_id} #{k.sample}</a> : <>{k.task_id} #{k.sample}</>}</td>
          <td>{k.why}</td><td class="n">{duration(k.ran_s)}</td><td class="n">{duration(k.saved_s)}</td><td class="n">{count(k.sampled_tokens)}</td></tr>)).slice(0, 300)}</tbody></table></div>
      <p class="note">Saved is an estimate: how much longer, on average, the run's finished trials went on that had run as long.</p></>}</Wait></Card>;
}
