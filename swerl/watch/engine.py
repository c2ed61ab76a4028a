"""Alarms about engines and the machine under them: all there, busy when there is work, cache warm, room to write."""

from __future__ import annotations

from collections.abc import Mapping

from swerl.watch.picture import Picture
from swerl.watch.rule import ClockRule, Finding
from swerl.watch.terms import Terms

MINUTE_S = 60.0
BUSY = 5  # percent of utilisation below which a GPU is idle
GB = 10**9


class Replicas(ClockRule):
    id = "SWERL-W301"
    title = "replica missing"
    asks = "fewer engines answer than GPUs and vllm.gen_tp make, or some GPUs stay idle beside busy ones"
    remedy = "look for the engine's first error in the trainer's log; stop and resume the run"
    action = "pause"
    faults = (2,)

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if picture.up_since is None:
            return None
        if picture.replicas is not None and picture.replicas < terms.replicas:
            return Finding(
                f"{picture.replicas} of {terms.replicas} engines are there", {"replicas": picture.replicas, "expected": terms.replicas}
            )
        busy = _busy_cards(now, picture, terms)
        if busy is None or not any(busy) or all(busy):
            return None
        idle = [index for index, one in enumerate(busy) if not one]
        return Finding(
            f"GPUs {', '.join(map(str, idle))} were idle for {terms.watch.gpu_idle_min:g} minutes beside busy ones", {"idle_gpus": idle}
        )


class PrefixHits(ClockRule):
    id = "SWERL-W302"
    title = "prefix cache no longer hit"
    asks = "the hit rate of the prefix cache is below watch.prefix_hit_min_share of the best that the run has had"
    remedy = "lower harbor_runtime.num_workers or vllm.max_num_seqs: more long trials are alive than the cache holds"
    faults = (49,)

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        rates = picture.hit_rates
        if len(rates) < 3 or max(rates) < 0.1:
            return None
        best, last = max(rates), rates[-1]
        if last >= terms.watch.prefix_hit_min_share * best or rates[-2] >= terms.watch.prefix_hit_min_share * best:
            return None
        return Finding(f"{last:.0%} of prompt tokens come from the prefix cache, {best:.0%} at best", {"hit_rate": last, "best": best})


class IdleGpus(ClockRule):
    id = "SWERL-W303"
    title = "GPUs idle while trials wait"
    asks = "all GPUs were idle for watch.gpu_idle_min minutes while trials ran and the engine was up"
    remedy = "trials are stuck outside the engine: look at sandboxes, images and the network (swerl status names the oldest trial)"
    faults = (13,)

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if picture.up_since is None or not picture.running:
            return None
        busy = _busy_cards(now, picture, terms)
        if not busy or any(busy):
            return None
        oldest = min(picture.running, key=lambda name: picture.running[name])
        waiting_s = now - picture.running[oldest]
        return Finding(
            f"all {len(busy)} GPUs idle for {terms.watch.gpu_idle_min:g} minutes with {len(picture.running)} trials alive;"
            f" the oldest is {oldest}, {waiting_s / MINUTE_S:.0f} minutes",
            {"gpus": len(busy), "running": len(picture.running), "oldest": oldest, "oldest_s": waiting_s},
        )


class Disk(ClockRule):
    id = "SWERL-W401"
    title = "disk filling"
    asks = "the disk of the run has less free than watch.disk_free_gb and one checkpoint, or /dev/shm is 95 % full"
    remedy = "free space; then swerl resume"
    action = "pause"
    faults = (32,)

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if not picture.samples:
            return None
        sample = picture.samples[-1]
        need = terms.watch.disk_free_gb * GB + (terms.checkpoint_bytes or 0)
        free = sample.get("disk_free_bytes")
        if free is not None and free < need:
            return Finding(
                f"{free / GB:.1f} GB free on the disk of the run, less than the {need / GB:.1f} GB of a checkpoint and the reserve",
                {"free_bytes": free, "needed_bytes": int(need)},
            )
        shared, size = sample.get("shm_free_bytes"), sample.get("shm_bytes")
        if shared is not None and size and shared < 0.05 * size:
            return Finding(f"/dev/shm has {shared / GB:.2f} of {size / GB:.1f} GB free", {"free_bytes": shared, "bytes": size})
        return None


class NodeLost(ClockRule):
    id = "SWERL-W403"
    title = "node lost"
    asks = "a machine of the run's cluster no longer answers"
    remedy = "see that it is up and reached; the same command resumes, with the same command on that node"
    action = "stop"

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if not picture.lost_nodes:
            return None
        named = ", ".join(map(str, sorted(picture.lost_nodes)))
        return Finding(f"node {named} is lost", {"nodes": sorted(picture.lost_nodes)})


class SilentService(ClockRule):
    id = "SWERL-W402"
    title = "service gives no answer"
    asks = "gateway or runner has answered no question of the supervisor for five minutes though its process lives"
    remedy = "end that process: the supervisor starts it again and the run goes on"

    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        if picture.phase == "":
            return None
        recent = picture.recent(5 * MINUTE_S, now)
        for name in ("gateway", "runner") if recent else ():
            if recent and all(sample.get(name, {}).get("answers") is False for sample in recent):
                return Finding(f"{name} gave no answer for five minutes", {"service": name, "questions": len(recent)})
        return None


def _busy_cards(now: float, picture: Picture, terms: Terms) -> list[bool] | None:
    """For each GPU, whether any sample of the last ``watch.gpu_idle_min`` minutes saw it busy; None where that cannot be told: no GPU is
    looked at, the samples do not reach back, or the engine was away meanwhile."""
    seconds = terms.watch.gpu_idle_min * MINUTE_S
    if picture.up_since is None or picture.phase not in ("sample", "validate"):
        return None
    if picture.waited_s(now, picture.up_since, picture.phase_since) < seconds or (recent := picture.recent(seconds, now)) is None:
        return None
    seen = [gpus for sample in recent if (gpus := sample.get("gpus"))]
    if not seen:
        return None
    cards: Mapping[int, bool] = {i: any(len(g) > i and g[i]["busy_percent"] > BUSY for g in seen) for i in range(len(seen[0]))}
    return list(cards.values())


RULES = (Replicas(), PrefixHits(), IdleGpus(), Disk(), SilentService(), NodeLost())
