// What the run cost, by what became of it.
import { runUrl, useAnswer } from "../api";
import { Stack } from "../chart";
import { Card, Empty, FATES, Figure, Shares, Wait } from "../parts";
import { href } from "../route";
import { count, duration, percent, tick } from "../words";
import type { PanelProps } from "../main";

interface CostData { devices: number; unit: string; by: string; fates: Record<string, Record<string, number>>; steps: ({ step: number } & Record<string, number>)[]; device_s: number; tokens: number; resolved: number;
  device_s_per_resolved: number | null; tokens_per_resolved: number | null; useful: number | null }

const MEANING: Record<string, string> = {
  trained: "in the loss, in a group whose rewards differ", "no signal": "in the loss, but all rewards of the group are equal", masked: "graded, kept out of the loss", killed: "ended by the tail-killer or cancelled",
  failed: "no verdict: sandbox, verifier or host broke", superseded: "under weights that were left behind", "run again": "settled without a verdict, asked for again", validation: "measured the policy", other: "saving and what no trial can be charged with",
};

export function Cost(props: PanelProps) {
  const cost = useAnswer<CostData>(runUrl(props.run, "cost"), props.live.revision);
  return <div class="grid"><Wait of={cost}>{(data) => {
    const names = Object.keys(FATES).filter((name) => data.fates[name]);
    const hours = (s: number | null) => s === null ? "–" : s >= 3600 ? `${(s / 3600).toFixed(s >= 36000 ? 0 : 1)} h` : duration(s);
    if (!names.length) return <Card wide><Empty>Nothing has been spent on a trial yet.</Empty></Card>;
    return <>
      <Card wide><dl class="figures">
        <Figure label={`${data.unit === "host" ? "Host" : "GPU"} time`} note={data.devices ? `${data.devices} GPUs` : "no GPU: the host counts as one device"}>{hours(data.device_s)}</Figure>
        <Figure label="Trained" note="share of it that moved the policy">{percent(data.useful, 0)}</Figure>
        <Figure label="Tokens sampled" note={data.tokens ? undefined : "not recorded by this run"}>{data.tokens ? count(data.tokens) : "–"}</Figure>
        <Figure label="Resolved" note="training trials in the loss">{count(data.resolved)}</Figure>
        <Figure label={`${data.unit === "host" ? "Host" : "GPU"} time each`} note="per resolved trial, everything included">{hours(data.device_s_per_resolved)}</Figure>
        <Figure label="Tokens each" note="per resolved trial">{data.tokens ? count(data.tokens_per_resolved) : "–"}</Figure>
      </dl></Card>
      <Card wide title="What became of it" note={`sampling is shared out by ${data.by}`}>
        <Shares parts={names.map((name) => ({ label: name, tone: FATES[name], share: data.device_s ? (data.fates[name].device_s ?? 0) / data.device_s : 0 }))} />
        <div class="scroll"><table><thead><tr><th>fate</th><th class="n">{data.unit} time</th><th class="n">share</th><th class="n">trials</th><th class="n">attempts</th><th class="n">tokens sampled</th><th class="n">trial time</th><th>which are</th></tr></thead>
          <tbody>{names.map((name) => { const f = data.fates[name]; return <tr key={name}><td><i class={"swatch " + FATES[name]} />{f.trials ? <a href={href(props.run, "trials", { fate: name, split: name === "validation" ? "val" : "train" })}>{name}</a> : name}</td><td class="n strong">{hours(f.device_s ?? 0)}</td><td class="n">{percent(data.device_s ? (f.device_s ?? 0) / data.device_s : null)}</td>
            <td class="n">{f.trials ? count(f.trials) : "–"}</td><td class="n">{f.attempts ? count(f.attempts) : "–"}</td><td class="n">{f.sampled_tokens ? count(f.sampled_tokens) : "–"}</td><td class="n">{f.total_s ? hours(f.total_s) : "–"}</td><td class="muted">{MEANING[name]}</td></tr>; })}</tbody></table></div></Card>
      <Card wide title="By step"><Stack title={`${data.unit} time`} steps={data.steps.map((s) => s.step)} unit={hours} tick={tick} parts={names.map((name) => ({ label: name, tone: FATES[name], values: data.steps.map((s) => s[name] ?? 0) }))} />
        <p class="note">A step's sampling time goes to its trials by {data.by}, its training time to the trials in the loss, validation to validation; the rest is other. The parts add up to the whole.</p></Card></>;
  }}</Wait></div>;
}
