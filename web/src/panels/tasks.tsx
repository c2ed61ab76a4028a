// Which tasks are solved when: a grid of tasks by steps, on a canvas so that a thousand tasks by hundreds of steps stay quick.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { runUrl, useAnswer } from "../api";
import { toneColour } from "../chart";
import { Card, Choice, Empty, Figure, Segments, Wait, useWidth } from "../parts";
import { go, href } from "../route";
import { percent } from "../words";
import type { PanelProps } from "../main";

type Cell = [step: number, trials: number, graded: number, resolved: number, signal: number];
interface Task { task: string; id: string; cells: Cell[]; trials: number; graded: number; resolved: number; rate: number | null; signal: number; drift: number | null; quarantined: string | null }
interface Grid { split: string; tasks: Task[]; steps: number[]; groups: number; groups_with_signal: number; always: number; never: number }

const ROW = 18, PAGE = 40;
const ORDERS: Record<string, [string, (a: Task, b: Task) => number]> = {
  name: ["name", (a, b) => a.id.localeCompare(b.id)],
  hard: ["hardest first", (a, b) => (a.rate ?? 2) - (b.rate ?? 2)],
  easy: ["easiest first", (a, b) => (b.rate ?? -1) - (a.rate ?? -1)],
  up: ["improved most", (a, b) => (b.drift ?? -9) - (a.drift ?? -9)],
  down: ["worsened most", (a, b) => (a.drift ?? 9) - (b.drift ?? 9)],
  silent: ["least signal", (a, b) => a.signal / (a.cells.length || 1) - b.signal / (b.cells.length || 1) || b.cells.length - a.cells.length],
};

export function Tasks(props: PanelProps) {
  const { run, live, route } = props, p = route.params;
  const split = p.split === "val" ? "val" : "train";
  const grid = useAnswer<Grid>(runUrl(run, "tasks", { split }), live.revision);
  const set = (change: Record<string, string | undefined>) => go(href(run, "tasks", { ...p, ...change }), true);
  const [word, setWord] = useState("");
  const order = ORDERS[p.order] ? p.order : "name", page = Number(p.page ?? 0);
  return <div class="grid"><Wait of={grid}>{(data) => {
    const shown = data.tasks.filter((t) => t.id.toLowerCase().includes(word.toLowerCase())).sort(ORDERS[order][1]);
    const pages = Math.max(1, Math.ceil(shown.length / PAGE)), at = Math.min(page, pages - 1);
    const quarantined = data.tasks.filter((t) => t.quarantined);
    return <>
      <Card wide><dl class="figures">
        <Figure label="Tasks seen">{data.tasks.length}</Figure>
        <Figure label="Groups" note="one task at one step">{data.groups}</Figure>
        <Figure label="Groups with a signal" note="rewards differ within the group">{percent(data.groups ? data.groups_with_signal / data.groups : null)}</Figure>
        <Figure label="Nearly always solved" note="90 % or more">{data.always}</Figure>
        <Figure label="Nearly never solved" note="10 % or less">{data.never}</Figure>
        <Figure label="Quarantined">{quarantined.length}</Figure>
      </dl></Card>
      {quarantined.length > 0 && <Card wide title="Quarantined"><table><tbody>{quarantined.map((t) => <tr key={t.id}><th scope="row">{t.id}</th><td class="muted">{t.quarantined}</td></tr>)}</tbody></table></Card>}
      <Card wide title="Solve rate by task and step" tools={<>
        <Segments label="Split" value={split} options={[["train", "training"], ["val", "validation"]]} onChange={(v) => set({ split: v, page: undefined })} />
        <Choice label="Order" value={order} options={Object.entries(ORDERS).map(([k, [label]]) => [k, label] as const)} onChange={(v) => set({ order: v, page: undefined })} />
        <input type="search" placeholder="task" aria-label="Search tasks" value={word} onInput={(e) => setWord((e.target as HTMLInputElement).value)} /></>}>
        {data.tasks.length === 0 ? <Empty>{split === "val" ? "No validation has settled yet." : "No training trial has settled yet."}</Empty> : <>
          <Heat run={run} split={split} tasks={shown.slice(at * PAGE, at * PAGE + PAGE)} steps={data.steps} />
          <div class="bar"><ul class="key"><li><i class="ramp" />none to all of the graded trials resolved</li><li><i class="swatch hatch" />no signal: all rewards equal</li><li><i class="swatch t-red" />nothing graded</li></ul>
            {pages > 1 && <span class="pager"><button type="button" disabled={at === 0} onClick={() => set({ page: String(at - 1) })}>Previous</button> {at + 1} of {pages} <button type="button" disabled={at >= pages - 1} onClick={() => set({ page: String(at + 1) })}>Next</button></span>}</div></>}
      </Card></>;
  }}</Wait></div>;
}

function Heat(props: { run: string; split: string; tasks: Task[]; steps: number[] }) {
  const [box, width] = useWidth<HTMLDivElement>();
  const canvas = useRef<HTMLCanvasElement | null>(null);
  const [told, setTold] = useState<string>("");
  const [theme, setTheme] = useState(0);
  useEffect(() => { const changed = () => setTheme((n) => n + 1); addEventListener("theme", changed); return () => removeEventListener("theme", changed); }, []);
  const column = useMemo(() => new Map(props.steps.map((s, i) => [s, i])), [props.steps]);
  const each = Math.max(2, Math.min(72, width / Math.max(1, props.steps.length)));
  const wide = Math.max(width, Math.ceil(each * props.steps.length)), high = props.tasks.length * ROW + 16;
  useEffect(() => {
    const c = canvas.current;
    if (!c || !width) return;
    const scale = devicePixelRatio || 1;
    c.width = wide * scale; c.height = high * scale;
    const g = c.getContext("2d")!;
    g.scale(scale, scale);
    g.clearRect(0, 0, wide, high);
    const teal = toneColour("t-teal"), red = toneColour("t-red"), faint = toneColour("cell"), line = toneColour("panel");
    g.font = "11px system-ui, sans-serif"; g.fillStyle = toneColour("muted"); g.textAlign = "center";
    const every = Math.max(1, Math.ceil(32 / each));
    props.steps.forEach((s, i) => { if (i % every === 0) g.fillText(String(s), Math.max(10, (i + 0.5) * each), high - 3); });
    props.tasks.forEach((task, row) => {
      for (const [step, , graded, resolved, signal] of task.cells) {
        const x = column.get(step)! * each, w = Math.max(1, each - (each > 6 ? 1 : 0)), y = row * ROW + 1, h = ROW - 2;
        g.globalAlpha = 1; g.fillStyle = graded ? faint : red; g.fillRect(x, y, w, h);
        if (graded) { g.globalAlpha = 0.08 + 0.92 * (resolved / graded); if (resolved) { g.fillStyle = teal; g.fillRect(x, y, w, h); } }
        if (graded && !signal && w > 4) { g.globalAlpha = 0.75; g.strokeStyle = line; g.lineWidth = 1; g.beginPath(); g.moveTo(x, y + h); g.lineTo(x + w, y); g.stroke(); }
      }
    });
  }, [props.tasks, props.steps, width, theme]);
  const cellAt = (event: MouseEvent) => {
    const task = props.tasks[Math.floor(event.offsetY / ROW)], step = props.steps[Math.floor(event.offsetX / each)];
    const cell = task?.cells.find((c) => c[0] === step);
    return task && cell ? { task, cell } : null;
  };
  return <>
    <div class="heat"><ul style={{ lineHeight: `${ROW}px` }}>{props.tasks.map((t) => <li key={t.task + t.id}><a href={href(props.run, "trials", { task: t.task, split: props.split })} title={t.id}>{t.id}</a>
      <span class="n">{percent(t.rate, 0)}</span><span class={"n drift " + ((t.drift ?? 0) > 0 ? "up" : (t.drift ?? 0) < 0 ? "down" : "")}>{t.drift === null ? "" : `${t.drift > 0 ? "+" : t.drift < 0 ? "−" : "±"}${Math.abs(100 * t.drift).toFixed(0)}`}</span></li>)}</ul>
      <div class="scroll" ref={box} tabIndex={0} role="group" aria-label="Grid of tasks by steps; the list beside it leads to each task's trials">
        <canvas ref={canvas} style={{ width: `${wide}px`, height: `${high}px` }} aria-hidden="true"
          onMouseMove={(e) => { const hit = cellAt(e); setTold(hit ? `${hit.task.id}, step ${hit.cell[0]}: ${hit.cell[3]} of ${hit.cell[2]} graded resolved (${hit.cell[1]} trials)${hit.cell[4] ? "" : ", no signal"}` : ""); }}
          onMouseLeave={() => setTold("")} onClick={(e) => { const hit = cellAt(e); if (hit) go(href(props.run, "trials", { task: hit.task.task, step: hit.cell[0], split: props.split })); }} />
      </div></div>
    <p class="readout">{told || `steps ${props.steps[0]} to ${props.steps.at(-1)}; a cell leads to its trials`}</p></>;
}
