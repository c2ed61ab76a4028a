// Is the hardware busy? Where a step's time goes, the engine's queue and cache, the host.
import { runUrl, useAnswer } from "../api";
import { Chart, Stack, TONES, type Line, type Points } from "../chart";
import { Card, Empty, Figure, Wait } from "../parts";
import { bytes, count, duration, percent, tick } from "../words";
import type { PanelProps } from "../main";

interface EngineData { gauges: Record<string, [number, number][]>; steps: { step: number; step_s: number; parts: Record<string, number>; places_busy: number | null; prefix_hits: number | null }[];
  pauses: { step: number; away_s: number; drain_s: number | null; aborted: number | null }[]; disk: { total: number; free: number }; devices: number }

const PARTS: readonly (readonly [string, string, string])[] = [["gen", "sampling", "t-teal"], ["old_log_prob", "log-probabilities", "t-blue"], ["ref", "reference", "t-violet"], ["adv", "advantages", "t-pink"], ["update_actor", "update", "t-amber"], ["update_critic", "critic", "t-brown"],
  ["update_weights", "weight sync", "t-purple"], ["save_checkpoint", "saving", "t-orange"], ["testing", "validation", "t-grey"]];
interface Wanted { title: string; names: readonly (readonly [string, string])[]; unit?: (v: number) => string; zero?: boolean }
const GAUGES: readonly Wanted[] = [
  { title: "Requests", names: [["engine.running", "running"], ["engine.waiting", "waiting"], ["gateway.waiting", "held by the gateway"]], zero: true },
  { title: "KV cache in use", names: [["engine.kv_cache", "KV cache"]], unit: (v) => percent(v, 0), zero: true },
  { title: "Prefix cache hits", names: [["engine.prefix_hits", "engine, since its start"]], unit: (v) => percent(v, 0), zero: true },
  { title: "Tokens a second", names: [["engine.prompt_tokens_s", "prompt"], ["engine.generated_tokens_s", "generated"]], zero: true, unit: count },
  { title: "Sessions at the gateway", names: [["gateway.sessions", "open"], ["gateway.working", "being sampled"]], zero: true },
  { title: "GPU busy", names: [["host.gpu_busy", "mean of all GPUs"]], unit: (v) => percent(v, 0), zero: true },
  { title: "GPU memory", names: [["host.gpu_memory", "share in use"]], unit: (v) => percent(v, 0), zero: true },
  { title: "CPU busy", names: [["host.cpu", "host"]], unit: (v) => percent(v, 0), zero: true },
  { title: "Memory", names: [["host.run_memory_mb", "the run"], ["host.memory_used_mb", "the host"]], unit: (v) => bytes(v * 1e6), zero: true },
  { title: "Disk free", names: [["host.disk_free_gb", "where the run is"]], unit: (v) => bytes(v * 1e9), zero: true },
];

export function Engine(props: PanelProps) {
  const engine = useAnswer<EngineData>(runUrl(props.run, "engine"), props.live.revision);
  return <div class="grid"><Wait of={engine}>{(data) => {
    const last = data.steps.slice(-10), mean = (values: (number | null)[]) => { const known = values.filter((v): v is number => v !== null); return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null; };
    const all = last.reduce((n, s) => n + s.step_s, 0), gen = last.reduce((n, s) => n + (s.parts.gen ?? 0), 0);
    const shown = GAUGES.map((g) => ({ ...g, lines: g.names.filter(([name]) => data.gauges[name]?.length).map(([name, label], i): Line => ({ label, tone: TONES[i], points: data.gauges[name] })) })).filter((g) => g.lines.length);
    const byStep = (pick: (s: EngineData["steps"][number]) => number | null): Points => data.steps.map((s) => [s.step, pick(s)]);
    return <>
      <Card wide><dl class="figures">
        <Figure label="Sampling" note="share of a step's time, last ten">{percent(all ? gen / all : null, 0)}</Figure>
        <Figure label="Places busy" note="of those for trials, while sampling">{percent(mean(last.map((s) => s.places_busy)), 0)}</Figure>
        <Figure label="Prefix hits" note="prompt tokens found in the cache">{percent(mean(last.map((s) => s.prefix_hits)), 0)}</Figure>
        <Figure label="Engine away" note="for each update">{duration(mean(data.pauses.slice(-10).map((p) => p.away_s)))}</Figure>
        <Figure label="Devices" note={data.devices ? "GPUs" : "no GPU: the host computes"}>{data.devices || "CPU"}</Figure>
        <Figure label="Disk free" note={`of ${bytes(data.disk.total)}`}>{bytes(data.disk.free)}</Figure>
      </dl></Card>
      <Card wide title="Where a step's time goes">
        {data.steps.length === 0 ? <Empty>The first step is not done yet.</Empty> :
          <Stack title="seconds" steps={data.steps.map((s) => s.step)} unit={duration} tick={tick} parts={[...PARTS.map(([name, label, tone]) => ({ label, tone, values: data.steps.map((s) => s.parts[name] ?? 0) })),
            { label: "the rest", tone: "t-faint", values: data.steps.map((s) => Math.max(0, s.step_s - Object.entries(s.parts).reduce((a, [name, b]) => a + (name === "testing" ? 0 : b), 0))) }]} />}
      </Card>
      {data.steps.length > 0 && <Card wide title="By step"><div class="charts">
        <Chart title="Places for trials busy" unit={(v) => percent(v, 0)} zero lines={[{ label: "busy", tone: "t-teal", points: byStep((s) => s.places_busy) }]} />
        {data.steps.some((s) => s.prefix_hits !== null) && <Chart title="Prefix hits" unit={(v) => percent(v, 0)} zero lines={[{ label: "hits", tone: "t-blue", points: byStep((s) => s.prefix_hits) }]} />}
        <Chart title="Engine away for an update" unit={duration} tick={tick} zero lines={[{ label: "away", tone: "t-purple", points: data.pauses.map((p) => [p.step, p.away_s]) }]} />
        <Chart title="Weight sync" unit={duration} tick={tick} zero lines={[{ label: "weight sync", tone: "t-amber", points: byStep((s) => s.parts.update_weights ?? null) }]} />
      </div></Card>}
      <Card wide title="Over time">{shown.length === 0 ? <Empty>The gateway, the engine and the host have told nothing yet; they do every half minute.</Empty>
        : <div class="charts">{shown.map((g) => <Chart key={g.title} title={g.title} time sync="time" lines={g.lines} unit={g.unit} zero={g.zero} legend={g.lines.length > 1} />)}</div>}</Card></>;
  }}</Wait></div>;
}
