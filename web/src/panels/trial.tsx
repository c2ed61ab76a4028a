// One trial: what was said and done, what it changed, the verifier's words, the tree of its session, its tokens. Everything is shown as text.
import { useState } from "preact/hooks";
import { ask, runUrl, useAnswer } from "../api";
import { Card, Empty, Segments, Shares, Verdict, Wait } from "../parts";
import { href } from "../route";
import { clock, count, duration } from "../words";
import type { PanelProps } from "../main";

interface Step { source: string; time: string | null; text: string | null; reasoning: string | null; calls: { id: string; name: string; arguments: Record<string, string> }[]; results: { id: string; text: string | null }[] }
interface Turn { id: number; parent: number | null; start: number; depth: number; main: boolean; side: boolean; probe: boolean; tokens: number; context: number; cached: number; versions: number[]; logprob: number; lowest: number;
  time: number | null; model_s: number | null; answer: { content: string; reasoning: string | null; calls: [string, string, string][]; finish: string } }
interface TrialData {
  key: string; split: string; task: string; task_id: string | null; sample: number; version: string; step: number; attempt: number; outcome: string | null; in_loss: number; reward: number | null; turns: number | null; attempts: number | null;
  session: string | null; started: number | null; settled: number | null; queue_s: number; setup_s: number; agent_s: number; verifier_s: number; hold_s: number; total_s: number | null; model_s: number | null; sampled_tokens: number | null; prompt_tokens: number | null;
  error: string | null; fate: string | null; more: { rewards?: Record<string, number>; findings?: { kind: string; path: string }[]; stop?: string; phase?: string };
  siblings: { key: string; sample: number; attempt: number; outcome: string | null; reward: number | null; fate: string | null }[]; events: { time: number; kind: string; data: Record<string, unknown> }[];
  files: { name: string; text: string; bytes: number }[]; changes: { name: string; diff: string[] | null; text: string | null; bytes: number }[]; transcript: Step[] | null; transcript_from: string | null;
  session_tree: { opened: number; closed: string | null; marks: string[]; turns: Turn[]; paths: { main: boolean; prompt: number; response: number; trained: number }[] } | null;
}

export function TrialPanel(props: PanelProps) {
  const key = props.route.params.key ?? "";
  const trial = useAnswer<TrialData>(runUrl(props.run, "trial", { key }), props.live.revision);
  const [view, setView] = useState(props.route.params.view ?? "transcript");
  return <div class="grid"><Wait of={trial}>{(t) => {
    const phases = [["queue", t.queue_s, "t-faint"], ["set-up", t.setup_s, "t-blue"], ...(t.model_s === null ? [["agent", t.agent_s - (t.hold_s || 0), "t-teal"]] : [["model", t.model_s, "t-teal"], ["tools", Math.max(0, t.agent_s - t.model_s - (t.hold_s || 0)), "t-amber"]]),
      ["engine away", t.hold_s, "t-grey"], ["verifier", t.verifier_s, "t-purple"]].filter(([, s]) => (s as number) > 0) as [string, number, string][];
    const sum = phases.reduce((n, [, s]) => n + s, 0) || 1;
    return <>
      <Card wide>
        <div class="trialhead"><div><a class="back" href={href(props.run, "trials", { step: t.step, split: t.split })}>Step {t.step}</a><h2>{t.task_id ?? t.key} <span class="muted">#{t.sample}</span></h2><code class="muted">{t.key}</code></div>
          <Verdict reward={t.reward} outcome={t.outcome} /></div>
        <dl class="figures">
          <div class="figure"><dt>Outcome</dt><dd>{t.outcome ?? "running"}<small>{t.more.stop ? `agent stopped: ${t.more.stop}` : t.more.phase ? `came to: ${t.more.phase}` : ""}</small></dd></div>
          <div class="figure"><dt>Became</dt><dd>{t.fate ?? "–"}<small>{t.split === "val" ? "never in the loss" : t.in_loss ? "in the loss" : "not in the loss"}</small></dd></div>
          <div class="figure"><dt>Reward</dt><dd>{t.reward ?? "–"}<small>{Object.entries(t.more.rewards ?? {}).map(([k, v]) => `${k} ${v}`).join(", ")}</small></dd></div>
          <div class="figure"><dt>Turns</dt><dd>{t.turns ?? "–"}<small>{t.sampled_tokens !== null ? `${count(t.sampled_tokens)} tokens sampled` : ""}</small></dd></div>
          <div class="figure"><dt>Took</dt><dd>{duration(t.total_s)}<small>{(t.attempts ?? 1) > 1 ? `${t.attempts} attempts` : `weights ${t.version}`}</small></dd></div>
        </dl>
        {phases.length > 0 && <><Shares parts={phases.map(([label, s, tone]) => ({ label: `${label} ${duration(s)}`, tone, share: s / sum }))} />
          <ul class="key">{phases.map(([label, s, tone]) => <li key={label}><i class={"swatch " + tone} />{label} {duration(s)}</li>)}</ul></>}
        {t.error && <p class="problem">{t.error}</p>}
        {t.siblings.length > 1 && <p class="siblings"><span class="muted">Its group:</span> {t.siblings.map((s) => <a key={s.key} class={"chip " + (s.reward === null ? "" : s.reward >= 1 ? "good" : "bad") + (s.key === t.key ? " here" : "")} href={href(props.run, "trial", { key: s.key })}
          title={`${s.outcome ?? "running"}, ${s.fate ?? ""}`} aria-current={s.key === t.key ? "true" : undefined}>#{s.sample}{s.attempt > 1 ? `.${s.attempt}` : ""}</a>)}</p>}
        {!!t.more.findings?.length && <details open><summary>{t.more.findings.length} findings of the detectors <span class="muted">(a verdict never depends on them)</span></summary>
          <table><tbody>{t.more.findings.map((f, i) => <tr key={i}><th scope="row"><span class="flag">{f.kind}</span></th><td><code>{f.path}</code></td></tr>)}</tbody></table></details>}
      </Card>
      <Card wide tools={<Segments label="View" value={view} onChange={setView} options={[["transcript", "transcript"], ["tokens", `tokens${t.session_tree ? ` (${t.session_tree.turns.length} turns)` : ""}`], ["changes", `changes (${t.changes.length})`], ["files", "verifier and files"], ["events", "events"]]} />} title="">
        {view === "transcript" && <Transcript t={t} />}
        {view === "tokens" && <Tokens run={props.run} t={t} />}
        {view === "changes" && (t.changes.length === 0 ? <Empty>The trial left no changed file. Changes are kept where the sandbox can say what changed, up to a megabyte.</Empty> : t.changes.map((c) => <div key={c.name}><h3>{c.name}</h3>{c.diff ? <Diff lines={c.diff} /> : <pre>{c.text}</pre>}</div>))}
        {view === "files" && (t.files.length === 0 ? <Empty>No file of the verifier was kept.</Empty> : t.files.map((f) => <div key={f.name}><h3>{f.name}</h3><pre>{f.text}</pre></div>))}
        {view === "events" && (t.events.length === 0 ? <Empty>No event names this trial beyond its start and end{t.started ? `: started ${clock(t.started)}, settled ${clock(t.settled)}` : ""}.</Empty> : <table><tbody>{t.events.map((e, i) => <tr key={i}><td>{clock(e.time)}</td><th scope="row">{e.kind}</th><td><code>{JSON.stringify(e.data)}</code></td></tr>)}</tbody></table>)}
      </Card></>;
  }}</Wait></div>;
}

function Diff(props: { lines: string[] }) {
  return <pre class="diff">{props.lines.map((line, i) => <span key={i} class={line.startsWith("@@") ? "at" : line.startsWith("+") ? "add" : line.startsWith("-") ? "del" : ""}>{line + "\n"}</span>)}</pre>;
}

const EDITS = [["old_string", "new_string"], ["old_str", "new_str"], ["old_text", "new_text"]] as const;

function Call(props: { name: string; args: Record<string, string> }) {
  const pair = EDITS.find(([a, b]) => a in props.args && b in props.args);
  const rest = Object.entries(props.args).filter(([k]) => !pair || !(pair as readonly string[]).includes(k));
  return <div class="call"><span class="tool">{props.name}</span>
    {rest.length === 1 && !pair ? <pre>{rest[0][1]}</pre> : rest.map(([k, v]) => <div key={k} class="arg"><span class="muted">{k}</span><pre>{v}</pre></div>)}
    {pair && <Diff lines={[...props.args[pair[0]].split("\n").map((l) => "-" + l), ...props.args[pair[1]].split("\n").map((l) => "+" + l)]} />}</div>;
}

function Transcript(props: { t: TrialData }) {
  const { t } = props;
  if (!t.transcript) return <Empty>{t.outcome === null ? "The trial is running; its transcript comes when the agent ends." : "The agent wrote no transcript, and the gateway's journal of its session is not here."}</Empty>;
  return <ol class="transcript">{t.transcript.map((step, i) => <li key={i} class={step.source}>
    <header><b>{step.source}</b>{step.time && <span class="muted">{step.time.slice(11, 19)}</span>}</header>
    {step.reasoning && <details><summary>reasoning</summary><pre>{step.reasoning}</pre></details>}
    {step.text && <pre class="said">{step.text}</pre>}
    {step.calls.map((call, j) => <Call key={j} name={call.name} args={call.arguments} />)}
    {step.results.map((result, j) => <pre key={j} class="result">{result.text ?? ""}</pre>)}
  </li>)}{t.transcript_from && <li class="source muted">from {t.transcript_from}</li>}</ol>;
}

interface TokenData { tokens: [string, number, number][]; cut: boolean; trained: boolean; context: string; context_tokens: number; decoded: boolean }

function Tokens(props: { run: string; t: TrialData }) {
  const { t } = props, tree = t.session_tree;
  const [open, setOpen] = useState<Record<number, TokenData | string>>({});
  if (!tree || !t.session) return <Empty>The gateway's journal of this trial is not here (an archive does not carry it), or the trial opened no session.</Empty>;
  const show = (turn: Turn) => {
    if (open[turn.id]) { const { [turn.id]: _, ...rest } = open; setOpen(rest); return; }
    ask<TokenData>(runUrl(props.run, "tokens", { session: t.session!, turn: turn.id })).then((d) => setOpen((old) => ({ ...old, [turn.id]: d })), (e: Error) => setOpen((old) => ({ ...old, [turn.id]: e.message })));
  };
  const starts = new Set(tree.turns.map((turn) => turn.start)).size;
  return <>
    <p class="note">{tree.turns.length} turns in {starts} conversation{starts > 1 ? "s" : ""}; {tree.paths.length} path{tree.paths.length === 1 ? "" : "s"}, {count(tree.paths.reduce((n, p) => n + p.trained, 0))} tokens can be trained{tree.marks.length ? `; ${tree.marks.join(", ")}` : ""}. Branches that are not on the main path stand to the right.</p>
    <ol class="tree">{tree.turns.map((turn) => <li key={turn.id} class={(turn.main ? "main" : "branch") + (turn.side ? " side" : "")} style={{ marginLeft: `${turn.main ? 0 : 24 * Math.min(4, turn.start + 1)}px` }}>
      <button type="button" aria-expanded={!!open[turn.id]} onClick={() => show(turn)}><b>turn {turn.depth}</b><span>{turn.side ? "side call" : turn.probe ? "probe" : turn.main ? "main path" : `branch of ${turn.parent === null ? "the start" : "turn " + (tree.turns.find((x) => x.id === turn.parent)?.depth ?? "?")}`}</span>
        <span class="n">{count(turn.context)} + {count(turn.tokens)} tokens</span><span class="n">cached {count(turn.cached)}</span><span class="n">mean log-p {turn.logprob.toFixed(3)}</span><span class="n">lowest {turn.lowest.toFixed(2)}</span><span>weights {turn.versions.join(", ")}</span>{turn.model_s !== null && turn.model_s !== undefined && <span class="n">{duration(turn.model_s)}</span>}</button>
      {open[turn.id] && (typeof open[turn.id] === "string" ? <p class="empty">{open[turn.id] as string}</p> : <TokenText data={open[turn.id] as TokenData} />)}
    </li>)}</ol>
    <ul class="key"><li><i class="swatch p0" />likely</li><li><i class="swatch p1" />p below 0.9</li><li><i class="swatch p2" />below 0.5</li><li><i class="swatch p3" />below 0.1</li><li><i class="swatch p4" />below 0.01</li><li><span class="trained">underlined</span> trained</li></ul></>;
}

const level = (logprob: number) => logprob > -0.105 ? "p0" : logprob > -0.693 ? "p1" : logprob > -2.303 ? "p2" : logprob > -4.605 ? "p3" : "p4";

function TokenText(props: { data: TokenData }) {
  const { data } = props;
  return <div class="tokens">
    <details><summary>{count(data.context_tokens)} tokens of context before it</summary><pre class="result">{data.context}</pre></details>
    {!data.decoded && <p class="note">The model's tokenizer is not here; tokens are shown by number.</p>}
    <pre>{data.tokens.map(([text, logprob, version], i) => <span key={i} class={`${level(logprob)}${data.trained ? " trained" : ""}`} title={`log-p ${logprob.toFixed(4)}, p ${Math.exp(logprob).toFixed(4)}, weights ${version}`}>{text}</span>)}</pre>
    {data.cut && <p class="note">The turn is longer; its first tokens are shown.</p>}</div>;
}
