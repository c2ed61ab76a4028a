// Is it alive, how far, what happens, what is wrong, with which configuration.
import { useState } from "preact/hooks";
import { runUrl, useAnswer } from "../api";
import { Chart, type Points } from "../chart";
import { Card, Empty, Figure, OUTCOMES, Shares, Wait, Segments } from "../parts";
import { href } from "../route";
import { clock, count, day, duration, number, percent, value } from "../words";
import type { PanelProps } from "../main";
import type { Validation } from "./curves";

export interface Alarm { severity: string; title: string; evidence: string; time: number | null; step: number | null; link: Record<string, string> }
export interface OverviewData {
  run: string; project: string; state: string; live: boolean; problem: string | null; attempt: number; started: number | null; first_started: number | null;
  ended: number | null; now: number; step: number; total_steps: number | null; step_s: number | null; left_s: number | null;
  doing: { what: string; since: number; step: number | null } | null; reward: number | null; rewards: [number, number][];
  trials: { settled: number; running: number; outcomes: Record<string, number> };
  processes: { name: string; pid: number; alive: boolean; since: number; memory_mb: number | null; cpu_s: number | null; last: { kind: string; time: number } | null }[];
  alarms: Alarm[]; checkpoints: { step: number; time: number; version: string; kept: boolean }[]; commit: string | null; dirty: boolean | null;
  host: { name: string; cpus: number; memory_mb: number; gpus: string[] } | null; versions: { train: Record<string, string>; trials: Record<string, string> } | null;
  command: string[] | null; broken_lines: number;
}
interface ConfigEntry { key: string; value: unknown; default: unknown; differs: boolean; source: string; description: string }

export function Overview(props: PanelProps) {
  const state = useAnswer<OverviewData>(runUrl(props.run, "overview"), props.live.revision);
  const validations = useAnswer<Validation[]>(runUrl(props.run, "validations"), props.live.revision);
  return <Wait of={state}>{(seen) => {
    const last = validations.data?.at(-1), first = validations.data?.[0];
    const settled = seen.trials.settled || 1;
    return <div class="grid">
      <Card wide><dl class="figures">
        <Figure label="State" note={seen.doing ? `${seen.doing.what} for ${duration(seen.now - seen.doing.since)}` : undefined}>{seen.state}</Figure>
        <Figure label="Step" note={seen.step_s !== null ? `${duration(seen.step_s)} each` : undefined}>{seen.step}{seen.total_steps ? <span class="of"> of {seen.total_steps}</span> : null}</Figure>
        <Figure label={seen.live ? "Time left" : "Took"} note={seen.live ? (seen.started ? `running for ${duration(seen.now - seen.started)}` : undefined) : day(seen.started)}>
          {seen.live ? duration(seen.left_s) : duration(seen.started && seen.ended ? seen.ended - seen.started : null)}</Figure>
        <Figure label="Resolve rate" note={last && last.value !== null ? <>{percent(last.low)} to {percent(last.high)}, step {last.step}{last.published ? "" : ", thin"}</> : "no validation yet"}>
          {percent(last?.value)}{first && last && first !== last && first.value !== null && last.value !== null
            ? <small class={last.value >= first.value ? "up" : "down"}> {last.value >= first.value ? "+" : "−"}{(100 * Math.abs(last.value - first.value)).toFixed(1)}</small> : null}</Figure>
        <Figure label="Reward" note="mean of the last step">{number(seen.reward, 3)}</Figure>
        <Figure label="Trials" note={seen.trials.running ? `${seen.trials.running} running` : "settled"}>{count(seen.trials.settled)}</Figure>
      </dl>{seen.problem && <p class="problem" role="alert">{seen.problem}</p>}</Card>

      <div class="column"><Card title="Alarms" note={seen.alarms.length ? undefined : "none"}>
        {seen.alarms.length === 0 ? <Empty>Nothing asks for your attention. Rules look at processes, trials, groups, probabilities, coverage, disk and silence.</Empty>
          : <ul class="alarms">{seen.alarms.slice(0, 12).map((alarm, i) => <li key={i} class={alarm.severity}>
            <div><b>{alarm.title}</b><span class="when">{alarm.time ? clock(alarm.time) : alarm.step !== null ? `step ${alarm.step}` : ""}</span></div>
            <p>{alarm.evidence}</p>
            {alarm.link.panel && <a href={href(props.run, alarm.link.panel, Object.fromEntries(Object.entries(alarm.link).filter(([k]) => k !== "panel")))}>look at it<span class="visually-hidden">: {alarm.title}</span></a>}
          </li>)}</ul>}
      </Card>

      <Card title="Processes" note={seen.live ? undefined : "the run is not running"}>
        {seen.processes.length === 0 ? <Empty>{seen.live ? "The supervisor has started none yet." : "What they did is in the logs and events."}</Empty>
          : <div class="scroll"><table><thead><tr><th>process</th><th class="n">pid</th><th>state</th><th class="n">memory</th><th class="n">CPU</th><th>last event</th></tr></thead>
            <tbody>{seen.processes.map((p) => <tr key={p.pid}><td><a href={href(props.run, "logs", { log: p.name })}>{p.name}</a></td><td class="n">{p.pid}</td>
              <td>{p.alive ? "alive" : "gone"}</td><td class="n">{p.memory_mb !== null ? `${count(p.memory_mb)} MB` : "–"}</td><td class="n">{p.cpu_s !== null ? duration(p.cpu_s) : "–"}</td>
              <td>{p.last ? <>{p.last.kind} <span class="muted">{duration(seen.now - p.last.time)} ago</span></> : "–"}</td></tr>)}</tbody></table></div>}
      </Card>

      <Card title="Where it stands">
        <table class="plainrows"><tbody>
          <tr><th>project</th><td>{seen.project ?? "–"}</td></tr>
          <tr><th>started</th><td>{day(seen.first_started)}{seen.attempt > 1 ? `, attempt ${seen.attempt} since ${day(seen.started)}` : ""}</td></tr>
          <tr><th>commit</th><td><code>{seen.commit?.slice(0, 12) ?? "none"}</code>{seen.dirty ? " with uncommitted changes" : ""}</td></tr>
          <tr><th>host</th><td>{seen.host ? `${seen.host.cpus} CPUs, ${Math.round(seen.host.memory_mb / 1024)} GiB${seen.host.gpus.length ? `, ${seen.host.gpus.length} × ${seen.host.gpus[0].split(",")[0]}` : ", no GPU"}` : "–"}</td></tr>
          <tr><th>software</th><td>{seen.versions ? ["verl", "vllm", "torch"].filter((n) => seen.versions!.train[n]).map((n) => `${n} ${seen.versions!.train[n]}`).concat(seen.versions.trials.harbor ? [`harbor ${seen.versions.trials.harbor}`] : []).join(", ") : "–"}</td></tr>
          <tr><th>checkpoints</th><td>{seen.checkpoints.length ? seen.checkpoints.map((c) => <span key={c.step} class={"chip" + (c.kept ? "" : " gone")} title={`${c.version}, ${day(c.time)}${c.kept ? "" : ", deleted by retention"}`}>{c.step}</span>) : "none committed yet"}</td></tr>
          {seen.broken_lines > 0 && <tr><th>files</th><td>{seen.broken_lines} lines could not be read (torn by a killed writer)</td></tr>}
        </tbody></table>
      </Card></div>

      <div class="column"><Card title="Learning">
        <Chart title="Resolve rate, validation" zero unit={(v) => percent(v, 0)} height={130} lines={[{ label: "resolve rate", tone: "t-teal", dots: true,
          points: (validations.data ?? []).map((v) => [v.step, v.value]) as Points, low: (validations.data ?? []).map((v) => [v.step, v.low]) as Points,
          high: (validations.data ?? []).map((v) => [v.step, v.high]) as Points }]} />
        <Chart title="Reward, training" height={110} lines={[{ label: "reward", tone: "t-blue", points: seen.rewards }]} />
      </Card>

      <Card title="Trials by outcome">
        {seen.trials.settled === 0 ? <Empty>No trial has settled yet. The first ones come when the engine is up.</Empty> : <>
          <Shares parts={Object.entries(seen.trials.outcomes).map(([name, n]) => ({ label: name, tone: OUTCOMES[name] ?? "t-grey", share: n / settled }))} />
          <table><tbody>{Object.entries(seen.trials.outcomes).sort((a, b) => b[1] - a[1]).map(([name, n]) => <tr key={name}>
            <th scope="row"><i class={"swatch " + (OUTCOMES[name] ?? "t-grey")} /><a href={href(props.run, "trials", { outcome: name })}>{name}</a></th><td class="n">{count(n)}</td><td class="n">{percent(n / settled)}</td></tr>)}</tbody></table></>}
      </Card></div>
      <Config {...props} />
    </div>;
  }}</Wait>;
}

function Config(props: PanelProps) {
  const [which, setWhich] = useState("differs");
  const [word, setWord] = useState("");
  const table = useAnswer<ConfigEntry[]>(runUrl(props.run, "config"), 0);
  return <Card wide title="Configuration" tools={<>
    <Segments label="Which keys" value={which} options={[["differs", "differs"], ["all", "all"]]} onChange={setWhich} />
    <input type="search" placeholder="key or value" aria-label="Search the configuration" value={word} onInput={(e) => setWord((e.target as HTMLInputElement).value)} /></>}>
    <Wait of={table}>{(entries) => {
      const shown = entries.filter((e) => (which === "all" || e.differs) && `${e.key} ${value(e.value)}`.toLowerCase().includes(word.toLowerCase()));
      if (!shown.length) return <Empty>{word ? "No key fits." : "Every key has its default."}</Empty>;
      return <div class="scroll tall"><table><thead><tr><th>key</th><th>value</th><th>default</th><th>from</th></tr></thead>
        <tbody>{shown.map((e) => <tr key={e.key} title={e.description}><td><code>{e.key}</code></td><td class={e.differs ? "strong" : ""}><code>{value(e.value)}</code></td>
          <td class="muted"><code>{value(e.default)}</code></td><td class="muted">{e.source}</td></tr>)}</tbody></table></div>;
    }}</Wait></Card>;
}
