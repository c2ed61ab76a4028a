// The shell: which run, which panel, light or dark, and what the keys do. Panels ask for their own data.
import "uplot/dist/uPlot.min.css";
import "./app.css";
import { render } from "preact";
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ask, useAnswer, useLive, runUrl, type Live } from "./api";
import { go, href, useRoute, type Route } from "./route";
import { Overview, type OverviewData } from "./panels/overview";
import { Curves } from "./panels/curves";
import { Tasks } from "./panels/tasks";
import { Trials } from "./panels/trials";
import { TrialPanel } from "./panels/trial";
import { Engine } from "./panels/engine";
import { Cost } from "./panels/cost";
import { Logs } from "./panels/logs";
import { duration } from "./words";

export interface RunEntry { id: string; run: string; state: string; live: boolean; step: number | null; total_steps: number | null; started: number; archive: boolean }
export interface PanelProps { run: string; live: Live; route: Route; runs: RunEntry[] }

const PANELS: readonly (readonly [string, string, ComponentType<PanelProps>])[] = [
  ["overview", "Overview", Overview], ["curves", "Curves", Curves], ["tasks", "Tasks", Tasks], ["trials", "Trials", Trials],
  ["engine", "Engine", Engine], ["cost", "Cost", Cost], ["logs", "Logs", Logs],
];
const THEMES = ["auto", "light", "dark"] as const;

function useTheme(): [string, () => void] {
  const [theme, set] = useState(localStorage.getItem("theme") ?? "auto");
  useEffect(() => {
    if (theme === "auto") document.documentElement.removeAttribute("data-theme"); else document.documentElement.setAttribute("data-theme", theme);
    localStorage.setItem("theme", theme);
    dispatchEvent(new Event("theme"));
    const query = matchMedia("(prefers-color-scheme: dark)"), changed = () => dispatchEvent(new Event("theme"));
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, [theme]);
  return [theme, () => set((old) => THEMES[(THEMES.indexOf(old as "auto") + 1) % THEMES.length])];
}

function useKeys(run: string | null, toggle: () => void, help: () => void): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const at = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(at.tagName)) return;
      const panel = PANELS[Number(event.key) - 1];
      if (panel) go(href(run, panel[0]));
      else if (event.key === "t") toggle();
      else if (event.key === "?") help();
      else if (event.key === "/") { const field = document.querySelector<HTMLInputElement>("input[type=search]"); if (field) { event.preventDefault(); field.focus(); } }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [run]);
}

function App() {
  const route = useRoute();
  const [runs, setRuns] = useState<RunEntry[] | null>(null);
  const [theme, toggle] = useTheme();
  const [help, setHelp] = useState(false);
  const run = route.run;
  const live = useLive(run);
  useKeys(run, toggle, () => setHelp((shown) => !shown));
  useEffect(() => {
    const load = () => ask<RunEntry[]>("/api/runs").then(setRuns, () => setRuns((old) => old ?? []));
    load();
    const timer = setInterval(load, 15000);
    return () => clearInterval(timer);
  }, []);
  useEffect(() => { if (!run && runs?.length) go(href(runs[0].id, route.panel), true); }, [run, runs]);
  useEffect(() => { document.title = run ? `${run} · ${route.panel} · swerl` : "swerl"; document.querySelector("main")?.scrollTo(0, 0);
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); }, [run, route.panel]);
  const state = useAnswer<OverviewData>(run ? runUrl(run, "overview") : null, live.revision);
  const Panel = route.panel === "trial" ? TrialPanel : PANELS.find(([name]) => name === route.panel)?.[2];
  const seen = state.data;
  const alarms = seen?.alarms.filter((a) => a.severity !== "note").length ?? 0;
  return <div class="page">
    <a class="skip" href="#main" onClick={(e) => { e.preventDefault(); document.getElementById("main")?.focus(); }}>To the content</a>
    <aside>
      <div class="brand"><b>swerl</b><button type="button" class="plain" onClick={toggle} aria-label={`Theme: ${theme}`} title="Light or dark (t)">{theme === "auto" ? "◐" : theme === "light" ? "○" : "●"}</button></div>
      <label class="runs"><span>Run</span>
        <select value={run ?? ""} onChange={(e) => go(href((e.target as HTMLSelectElement).value, route.panel === "trial" ? "trials" : route.panel))}>
          {!runs?.some((r) => r.id === run) && <option value={run ?? ""}>{run ?? "none"}</option>}
          {runs?.map((r) => <option key={r.id} value={r.id}>{r.id}{r.live ? " · running" : r.archive ? "" : ` · ${r.state}`}</option>)}
        </select></label>
      <nav aria-label="Panels">{PANELS.map(([name, label], i) =>
        <a key={name} href={href(run, name)} aria-current={route.panel === name || (name === "trials" && route.panel === "trial") ? "page" : undefined}>
          {label}<kbd aria-hidden="true">{i + 1}</kbd></a>)}</nav>
      <footer>{live.connected ? "following" : "not connected"}{live.behind > 0 && `, ${Math.round(100 * (1 - live.behind))} % read`}
        <button type="button" class="plain" onClick={() => setHelp(true)} aria-label="Keys">?</button></footer>
    </aside>
    <div class="body">
      {seen && <div class="strip" role="status">
        <span class={"state " + seen.state}>{seen.state}</span>
        <span class="grow"><b>{seen.run}</b> step {seen.step}{seen.total_steps ? ` of ${seen.total_steps}` : ""}</span>
        {seen.doing && <span>{seen.doing.what}</span>}
        {seen.left_s !== null && <span>about {duration(seen.left_s)} left</span>}
        {alarms > 0 && <a class="alarmcount" href={href(run, "overview")}>{alarms === 1 ? "1 alarm" : `${alarms} alarms`}</a>}
        {seen.total_steps ? <i class="progress" style={{ width: `${Math.min(100, 100 * seen.step / seen.total_steps)}%` }} /> : null}
      </div>}
      {live.trouble && <p class="reading" role="alert">This run is not followed: {live.trouble}. It is tried again.</p>}
      {live.behind > 0 && <p class="reading" role="status">The files of this run are being read for the first time: {Math.round(100 * (1 - live.behind))} %. What is shown grows with it.</p>}
      <main id="main" tabIndex={-1}>
        <h1 class="visually-hidden">{route.panel} of {run ?? "no run"}</h1>
        {!run && runs && !runs.length && <p class="empty big">No run has been started here. <code>make demo</code> trains a small policy on this machine; <code>make train</code> starts your own run.</p>}
        {run && Panel && <Panel key={run + route.panel} run={run} live={live} route={route} runs={runs ?? []} />}
        {run && !Panel && <p class="empty">There is no panel {route.panel}.</p>}
      </main>
    </div>
    {help && <dialog open class="help" aria-label="Keys" onClick={() => setHelp(false)}>
      <h2>Keys</h2><dl>{PANELS.map(([, label], i) => <div key={label}><dt><kbd>{i + 1}</kbd></dt><dd>{label}</dd></div>)}
        <div><dt><kbd>/</kbd></dt><dd>search on this panel</dd></div><div><dt><kbd>t</kbd></dt><dd>light, dark, as the system</dd></div>
        <div><dt><kbd>?</kbd></dt><dd>this list</dd></div></dl>
      <button type="button" onClick={() => setHelp(false)}>Close</button></dialog>}
  </div>;
}

render(<App />, document.getElementById("app")!);
