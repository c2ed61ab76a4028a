// Curves by uPlot. Colours come from the page's variables, so that a change of theme redraws; cursors of one page move together.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { number } from "./words";
import { useWidth } from "./parts";

export type Points = readonly (readonly [number, number | null])[];
export interface Line { label: string; points: Points; tone: string; faint?: boolean; dots?: boolean; low?: Points; high?: Points; dash?: boolean }
export interface ChartProps {
  title: string; lines: readonly Line[]; height?: number; log?: boolean; smooth?: number; time?: boolean; zero?: boolean; unit?: (v: number) => string;
  sync?: string; note?: string; tick?: (v: number) => string; legend?: boolean;
}

/** Steps up to which every point gets a dot; with more of them a line reads better without. */
const DOTTED = 30;

export const TONES = ["t-teal", "t-blue", "t-amber", "t-purple", "t-red", "t-brown", "t-pink", "t-grey"] as const;

/** Exponential moving average that starts without bias; `weight` 0 leaves points as they are. */
export function smoothed(points: Points, weight: number): Points {
  if (!weight) return points;
  let sum = 0, mass = 0;
  return points.map(([x, y]) => {
    if (y === null) return [x, null] as const;
    sum = sum * weight + (1 - weight) * y;
    mass = mass * weight + (1 - weight);
    return [x, sum / mass] as const;
  });
}

function colour(name: string): string { return getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888"; }
export const toneColour = (tone: string) => colour("--" + tone);

/** Columns on common x values. */
function table(lines: readonly Line[], smooth: number, log: boolean): { data: uPlot.AlignedData; series: uPlot.Series[]; bands: uPlot.Band[] } {
  const columns: { points: Points; series: uPlot.Series }[] = [];
  const bands: uPlot.Band[] = [];
  const edge = (points: Points, tone: string) => columns.push({ points, series: { stroke: "transparent", width: 0, points: { show: false }, label: tone } });
  for (const line of lines) {
    const stroke = toneColour(line.tone);
    if (line.low && line.high) {
      edge(line.high, line.label); edge(line.low, line.label);
      bands.push({ series: [columns.length - 1, columns.length], fill: stroke + "26" });
    }
    if (smooth) columns.push({ points: line.points, series: { label: line.label, stroke: stroke + "4d", width: 1, points: { show: false } } });
    columns.push({ points: smoothed(line.points, smooth), series: {
      label: line.label, stroke: line.faint ? stroke + "80" : stroke, width: 1.6, dash: line.dash ? [4, 3] : undefined, spanGaps: true,
      points: { show: (u) => !!line.dots || u.data[0].length <= DOTTED, size: 6, fill: stroke, stroke } } });
  }
  const xs = [...new Set(columns.flatMap((c) => c.points.map((p) => p[0])))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const data = columns.map((c) => {
    const column: (number | null)[] = new Array(xs.length).fill(null);
    for (const [x, y] of c.points) column[place.get(x)!] = log && y !== null && y <= 0 ? null : y;
    return column;
  });
  return { data: [xs, ...data] as uPlot.AlignedData, series: columns.map((c) => c.series), bands };
}

export function Chart(props: ChartProps) {
  const [box, width, at] = useWidth<HTMLDivElement>();
  const plot = useRef<uPlot | null>(null);
  const readout = useRef<HTMLOutputElement | null>(null);
  const height = props.height ?? 170;
  const unit = props.unit ?? ((v: number) => number(v));
  const newest = (line: Line) => { for (let i = line.points.length - 1; i >= 0; i--) if (line.points[i][1] !== null) return line.points[i]; return null; };
  const shape = JSON.stringify([props.lines.map((l) => [l.label, l.tone, !!l.low, l.dash]), props.log, props.smooth, props.time, width, height]);

  useEffect(() => {
    if (!at.current || width < 40) return;
    const make = () => {
      plot.current?.destroy();
      const { data, series, bands } = table(props.lines, props.smooth ?? 0, !!props.log);
      const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      plot.current = new uPlot({
        width, height, legend: { show: false }, padding: [8, 14, 0, 0],
        cursor: { sync: { key: props.sync ?? "page" }, points: { size: 6 }, y: false, drag: { x: true, y: false } },
        scales: { x: { time: !!props.time }, y: { distr: props.log ? 3 : 1,
          range: props.log ? undefined : (_, low, high) => span(low, high, !!props.zero) } },
        axes: [{ ...axis, space: 56, size: 24, values: props.time ? undefined : (_, ticks) => ticks.map((t) => Number.isInteger(t) ? String(t) : "") },
          { ...axis, space: 32, size: 52, values: (_, ticks, __, ___, step) => ticks.map((t) => t === null ? "" : props.tick ? props.tick(t) : props.unit ? props.unit(t) : label(t, step)) }],
        series: [{}, ...series], bands,
        hooks: { setCursor: [(u) => {
          if (!readout.current) return;
          const place = u.cursor.idx;
          if (place === null || place === undefined) { readout.current.textContent = ""; return; }
          const x = u.data[0][place];
          const shown = props.lines.map((l) => { const y = l.points.find((p) => p[0] === x)?.[1]; return y === undefined || y === null ? null : (props.lines.length > 1 ? l.label + " " : "") + unit(y); });
          readout.current.textContent = `${props.time ? new Date(x * 1000).toLocaleTimeString("en-GB") : "step " + x}: ${shown.filter(Boolean).join(", ")}`;
        }] },
      }, data, at.current!);
    };
    make();
    addEventListener("theme", make);
    return () => { removeEventListener("theme", make); plot.current?.destroy(); plot.current = null; };
  }, [shape]);

  useEffect(() => {
    if (plot.current) plot.current.setData(table(props.lines, props.smooth ?? 0, !!props.log).data, true);
  }, [props.lines]);

  const told = props.lines.map((l) => { const p = newest(l); return p ? `${l.label} ${unit(p[1]!)}` : null; }).filter(Boolean).join(", ");
  return <figure class="chart">
    <figcaption><b title={props.title}>{props.title}</b>
      {props.lines.length === 1 && newest(props.lines[0]) && <span class="newest">{unit(newest(props.lines[0])![1]!)}</span>}
      {props.note && <span class="note">{props.note}</span>}<output ref={readout} aria-live="off" /></figcaption>
    <div ref={box} role="img" aria-label={`${props.title}: ${told || "no values"}`} style={{ height: `${height}px` }} />
    {(props.legend ?? props.lines.length > 1) && <ul class="key">{props.lines.map((l) => <li key={l.label}><i class={"swatch " + l.tone} />{l.label}</li>)}</ul>}
  </figure>;
}

/** A tick of the value axis with as many digits as tell it from its neighbours. */
function label(value: number, step: number): string {
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  if (digits > 5 && Math.abs(value) < 0.1) return value === 0 ? "0" : value.toExponential(1);
  return Math.abs(value) >= 1e4 ? number(value) : value.toFixed(Math.min(8, digits));
}

function span(low: number | null, high: number | null, zero: boolean): [number, number] {
  let a = low ?? 0, b = high ?? 1;
  if (zero) a = Math.min(0, a);
  if (a === b && a === 0) return [0, 1];
  if (a === b) { const pad = Math.abs(a) * 0.1 || 1; return [zero ? a : a - pad, b + pad]; }
  const pad = (b - a) * 0.08;
  return [zero && a === 0 ? 0 : a - pad, b + pad];
}

/** Stacked bars by step, as one SVG path for each part: hundreds of steps stay light. */
export function Stack(props: { title: string; steps: readonly number[]; parts: readonly { label: string; tone: string; values: readonly number[] }[];
  height?: number; unit?: (v: number) => string; tick?: (v: number) => string; onPick?: (step: number) => void; picked?: number | null }) {
  const [box, width] = useWidth<HTMLDivElement>();
  const readout = useRef<HTMLOutputElement | null>(null);
  const height = props.height ?? 150, left = 60, bottom = 18;
  const unit = props.unit ?? ((v: number) => number(v));
  const totals = props.steps.map((_, i) => props.parts.reduce((sum, part) => sum + (part.values[i] || 0), 0));
  const most = Math.max(...totals, 0) || 1;
  const inner = Math.max(1, width - left - 8), each = inner / Math.max(1, props.steps.length), bar = Math.max(1, Math.min(28, each - Math.min(2, each * 0.2)));
  const y = (v: number) => (height - bottom) * (1 - v / most) + 4 * (v / most);
  const bases = props.steps.map(() => 0);
  const paths = props.parts.map((part) => {
    let d = "";
    part.values.forEach((v, i) => {
      if (!v) return;
      const x = left + i * each + (each - bar) / 2;
      d += `M${x.toFixed(1)} ${y(bases[i]).toFixed(1)}V${y(bases[i] + v).toFixed(1)}h${bar.toFixed(1)}V${y(bases[i]).toFixed(1)}z`;
      bases[i] += v;
    });
    return <path key={part.label} class={"fill " + part.tone} d={d} />;
  });
  const at = (event: MouseEvent) => Math.floor((event.offsetX - left) / each);
  const tell = (i: number) => {
    if (!readout.current) return;
    readout.current.textContent = i >= 0 && i < props.steps.length
      ? `step ${props.steps[i]}: ${props.parts.filter((p) => p.values[i]).map((p) => `${p.label} ${unit(p.values[i])}`).join(", ")}` : "";
  };
  const shownEvery = Math.max(1, Math.ceil(34 / each));
  const pickedAt = props.picked === undefined || props.picked === null ? -1 : props.steps.indexOf(props.picked);
  const move = (event: KeyboardEvent) => {
    if (!props.onPick || (event.key !== "ArrowLeft" && event.key !== "ArrowRight")) return;
    event.preventDefault();
    const next = Math.min(props.steps.length - 1, Math.max(0, (pickedAt < 0 ? props.steps.length : pickedAt) + (event.key === "ArrowLeft" ? -1 : 1)));
    props.onPick(props.steps[next]); tell(next);
  };
  return <figure class="chart">
    <figcaption><b>{props.title}</b><output ref={readout} aria-live="off" /></figcaption>
    <div ref={box} class="plotbox" style={{ height: `${height}px` }} role="img" tabIndex={props.onPick ? 0 : undefined} onKeyDown={move}
      aria-label={`${props.title}, by step` + (props.onPick ? "; arrow keys choose a step" : "")}>
      {width > 0 && <svg width={width} height={height} onMouseMove={(e) => tell(at(e))} onMouseLeave={() => tell(-1)}
        onClick={(e) => { const i = at(e); if (props.onPick && i >= 0 && i < props.steps.length) props.onPick(props.steps[i]); }}>
        {[0, 0.5, 1].map((f) => <g key={f}><line class="gridline" x1={left} x2={width - 8} y1={y(f * most)} y2={y(f * most)} />
          <text class="tick" x={left - 6} y={y(f * most) + 4} text-anchor="end">{(props.tick ?? unit)(f * most)}</text></g>)}
        {pickedAt >= 0 && <rect class="picked" x={left + pickedAt * each} y={0} width={Math.max(2, each)} height={height - bottom} />}
        {paths}
        {props.steps.map((s, i) => i % shownEvery === 0 && <text key={s} class="tick" x={left + (i + 0.5) * each} y={height - 4} text-anchor="middle">{s}</text>)}
      </svg>}
    </div>
    <ul class="key">{props.parts.filter((p) => p.values.some(Boolean)).map((p) => <li key={p.label}><i class={"swatch " + p.tone} />{p.label}</li>)}</ul>
  </figure>;
}
