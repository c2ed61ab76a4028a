"""Random conversations of several agents with one session: training gets what was sampled, whatever clients do to the history."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass, field, replace

import orjson
from gatewaykit import TOOLS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swerl.gateway.chat import Answer, ChatRequest, Message, ToolCall
from swerl.gateway.dialects.openai_chat import OpenAIChat
from swerl.gateway.history import Histories
from swerl.gateway.placement import Placer
from swerl.gateway.records import context_record, read_tree, turn_record
from swerl.gateway.sampling import Sampled
from swerl.gateway.template import ChatTemplate
from swerl.gateway.tree import Context, SessionTree, Tokens, Turn, lineage, paths, side_starts, turns_of_task


@dataclass
class Agent:
    tools: tuple
    history: list[Message]


@dataclass
class World:
    """A session, its agents, and a record of every exchange with the engine."""

    template: ChatTemplate
    rng: random.Random
    on_rewrite: str = "keep"
    tree: SessionTree = field(default_factory=SessionTree)
    agents: list[Agent] = field(default_factory=list)
    exchanges: list[tuple[list[int], list[int], list[float]]] = field(default_factory=list)
    journal: list[dict] = field(default_factory=list)
    histories: Histories = field(default_factory=Histories)
    counter: itertools.count = field(default_factory=itertools.count)

    def __post_init__(self):
        self.placer = Placer(self.template, lambda _, run, r: Tokens.of(self.template.prompt(run, r.tools)), self.on_rewrite)
        self.new_agent()

    def unique(self, what: str) -> str:
        return f"{what} {next(self.counter)} {self.rng.choice(['x', 'é🦊', 'a  b', '<tool_call>', chr(10)])}"

    def new_agent(self, tools=tuple(TOOLS)):
        self.agents.append(Agent(tools, [Message("system", self.unique("system")), Message("user", self.unique("task"))]))

    def sample(self, agent: Agent) -> Turn:
        """One exchange with the engine, recorded as the gateway records it."""
        body = {"messages": [m.for_template() | {"role": m.role} for m in agent.history], "tools": list(agent.tools)}
        for message in body["messages"]:
            for call in message.get("tool_calls", ()):
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
        remembering = OpenAIChat().parse(body, {}, 0, self.histories)
        forgetting = ChatRequest(remembering.messages, agent.tools)
        context = self.placer.place(self.tree, remembering).context
        assert self.placer.place(self.tree, forgetting).context is context, "what is remembered of earlier requests changes nothing"
        text, with_call = self.unique("say"), bool(agent.tools) and self.rng.random() < 0.7
        calls = (ToolCall(f"call_{next(self.counter)}", "bash", json.dumps({"command": self.unique("cd x && cat")})),) if with_call else ()
        reasoning = self.unique("because") if self.rng.random() < 0.3 else None
        ids = self.template.tokenizer.encode(text + "".join(c.arguments for c in calls))
        finish = self.rng.choice(["stop", "stop", "stop", "length"])
        if finish == "stop":
            ids.append(self.rng.choice(sorted(self.template.stop_ids)))
        logprobs = [-float(next(self.counter)) - 1 for _ in ids]
        versions = [self.rng.choice([3, 4]) for _ in ids]
        prompt = [t for n in lineage(context) for t in n.tokens.ids()]
        self.exchanges.append((prompt, ids, logprobs))
        answer = Answer(text, reasoning, calls, "tool_calls" if calls else finish)
        self.journal += [context_record(n) for n in lineage(context) if isinstance(n, Context) and not n.saved]
        for node in lineage(context):
            if isinstance(node, Context):
                node.saved = True
        turn_id = self.tree.next_id()
        self.journal.append(turn_record(turn_id, context, Sampled(ids, logprobs, versions, finish, 0), answer, probe=False, hold_s=0))
        return self.tree.add_turn(context, ids, logprobs, versions, answer, id=turn_id)

    def echo(self, turn: Turn, rewrite: str) -> Message:
        """The client's copy of a turn."""
        a = turn.answer
        message = Message("assistant", a.content, a.reasoning, a.tool_calls)
        if rewrite == "reasoning":
            message = replace(message, reasoning=None)
        elif rewrite == "spacing":
            message = replace(message, text=f" {a.content}\n")
        elif a.tool_calls and rewrite in ("serialisation", "arguments"):
            command = json.loads(a.tool_calls[0].arguments)["command"]
            value = {"command": command if rewrite == "serialisation" else command.removeprefix("cd x && ")}
            call = replace(a.tool_calls[0], arguments=json.dumps(value, separators=(",", ":"), ensure_ascii=False))
            message = replace(message, tool_calls=(call,))
        return message

    def step(self, agent: Agent, rewrite: str = "none") -> None:
        turn = self.sample(agent)
        agent.history.append(self.echo(turn, rewrite))
        if turn.answer.tool_calls:
            agent.history.append(Message("tool", self.unique("result"), tool_call_id=turn.answer.tool_calls[0].id))
        else:
            agent.history.append(Message("user", self.unique("go on")))


REWRITES = ["none", "none", "reasoning", "spacing", "serialisation", "arguments"]
ACTIONS = ["step", "step", "step", "resample", "subagent", "toolless", "compact", "compact_tail", "drop", "note", "repeat", "edit_result"]


def sound(history: list[Message]) -> bool:
    """Whether every tool result stands behind its call: no agent sends anything else, and no model has to accept it."""
    open_calls: set[str] = set()
    for message in history:
        if message.role == "tool":
            if message.tool_call_id not in open_calls:
                return False
        else:
            open_calls = {call.id for call in message.tool_calls}
    return True


def act(world: World, action: str) -> None:
    agent, rng = world.rng.choice(world.agents), world.rng
    if action == "step":
        world.step(agent, rng.choice(REWRITES))
    elif action == "resample":  # two samples of one prompt; the agent goes on with either
        first = world.sample(agent)
        second = world.sample(agent)
        chosen = rng.choice([first, second])
        agent.history.append(world.echo(chosen, "none"))
        agent.history.append(Message("user", world.unique("then")))
    elif action == "subagent":
        world.new_agent()
        world.step(world.agents[-1])
    elif action == "toolless":
        world.new_agent(())
        world.sample(world.agents.pop())
    elif action == "compact":
        agent.history = [agent.history[0], Message("user", world.unique("summary"))]
        world.step(agent)
    elif action == "compact_tail":
        shortened = [agent.history[0], Message("user", world.unique("summary")), *agent.history[-2:]]
        if sound(shortened):
            agent.history = shortened
            world.step(agent)
    elif action == "drop" and len(agent.history) > 5:
        at = rng.randrange(2, len(agent.history) - 1)
        shortened = agent.history[:at] + agent.history[at + 2 :]
        if sound(shortened):
            agent.history = shortened
            if agent.history[-1].role != "assistant":
                world.step(agent)
    elif action == "note":
        agent.history.append(Message("system", world.unique("note")))
        world.step(agent, rng.choice(REWRITES))
    elif action == "repeat":  # the last assistant turn stands twice
        turn = world.sample(agent)
        agent.history += [world.echo(turn, "none"), world.echo(turn, "none"), Message("user", world.unique("again"))]
        world.step(agent)
    elif action == "edit_result":
        at = next((i for i, m in enumerate(agent.history) if m.role == "tool"), None)
        if at is not None:
            agent.history[at] = replace(agent.history[at], text=world.unique("cleared"))
            world.step(agent)


def check(world: World, tree: SessionTree) -> None:
    rows = paths(tree)
    sides = side_starts(tree)
    begun = {lineage(t)[0]: [u for u in tree.turns if lineage(u)[0] is lineage(t)[0]] for t in tree.turns}
    tools = any(start.tool_count for start in tree.starts.values())
    aside = {s for s, ts in begun.items() if all(t.probe for t in ts) or (tools and not s.tool_count and all(t.depth == 1 for t in ts))}
    assert sides & begun.keys() == aside and turns_of_task(tree) == sum(len(ts) for s, ts in begun.items() if s not in aside)
    assert [r.main for r in rows] == [False] * (len(rows) - 1) + [True] * bool(rows)
    engine_saw = [prompt + ids for prompt, ids, _ in world.exchanges]
    trained: list[float] = []
    for row in rows:
        whole = row.prompt_ids + row.response_ids
        assert whole in engine_saw, "a path is what the engine was given, then what it answered"
        assert len(row.response_ids) == len(row.response_mask) == len(row.response_logprobs) == len(row.versions)
        for mask, logprob, version in zip(row.response_mask, row.response_logprobs, row.versions, strict=True):
            assert (logprob == 0.0) == (version == -1)
            assert not mask or logprob < 0
            if mask:
                trained.append(logprob)
        assert sum(row.response_mask) > 0
    expected = [lp for t in tree.turns if t.start not in sides for lp in t.logprobs]
    assert sorted(trained) == sorted(expected), "each sampled token is trainable once, with its own log-probability"
    # branches: turns that no later prompt continues
    inner = {
        i
        for i, (prompt, ids, _) in enumerate(world.exchanges)
        if any(other[: len(prompt) + len(ids)] == prompt + ids for other, _, _ in world.exchanges if len(other) > len(prompt))
    }
    outside = {i for i, t in enumerate(tree.turns) if t.start in sides}
    assert len(rows) == len(set(range(len(world.exchanges))) - inner - outside)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), actions=st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=12), branch=st.booleans())
def test_every_sampled_token_is_trainable_once(template, seed, actions, branch):
    world = World(template, random.Random(seed), "branch" if branch else "keep")
    for action in actions:
        act(world, action)
    check(world, world.tree)
    restored = read_tree(orjson.loads(orjson.dumps(world.journal)))
    check(world, restored)
    assert [p.as_dict() for p in paths(restored)] == [p.as_dict() for p in paths(world.tree)]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), rewrites=st.lists(st.sampled_from(REWRITES), min_size=1, max_size=15))
def test_an_append_only_history_is_one_path(template, seed, rewrites):
    world = World(template, random.Random(seed))
    for rewrite in rewrites:
        world.step(world.agents[0], rewrite)
    assert len(paths(world.tree)) == 1 and paths(world.tree)[0].turns == len(rewrites)
    for (prompt, ids, _), (following, _, _) in itertools.pairwise(world.exchanges):
        assert following[: len(prompt) + len(ids)] == prompt + ids
    check(world, world.tree)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_real_rewrites_branch_when_asked_to(template, seed):
    worlds = {}
    for mode in ("keep", "branch"):
        world = worlds[mode] = World(template, random.Random(seed), mode)
        agent = world.agents[0]
        while not (turn := world.sample(agent)).answer.tool_calls:
            agent.history += [world.echo(turn, "none"), Message("user", world.unique("more"))]
        agent.history += [world.echo(turn, "arguments"), Message("tool", "r", tool_call_id=turn.answer.tool_calls[0].id)]
        world.sample(agent)
        check(world, world.tree)
    assert len(paths(worlds["keep"].tree)) == 1
    assert len(paths(worlds["branch"].tree)) == 2
    harmless = World(template, random.Random(seed), "branch")
    for rewrite in ("reasoning", "spacing", "serialisation"):
        harmless.step(harmless.agents[0], rewrite)
    assert len(paths(harmless.tree)) == 1


def test_a_template_that_cannot_go_on_gets_a_new_start_and_goes_on_from_there(tmp_path):
    """A tool result without a call cannot follow a text turn under the strict template; nor, then, may the conversation stay there."""
    from gatewaykit import STRICT, write_model

    refusal = "{%- if message.content == 'poison' and loop.length < 5 %}{{ raise_exception('no') }}{%- endif %}"
    broken = STRICT.replace("{%- set state.last", refusal + "{%- set state.last")
    world = World(ChatTemplate(write_model(tmp_path, broken)), random.Random(1))
    agent = Agent((), [Message("system", "s"), Message("user", "u")])
    world.agents = [agent]
    agent.history += [world.echo(world.sample(agent), "none"), Message("user", "next")]
    agent.history += [world.echo(world.sample(agent), "none"), Message("user", "poison")]
    for i in range(3):
        agent.history += [world.echo(world.sample(agent), "none"), Message("user", f"and on {i}")]
    rows = paths(world.tree)
    assert [row.turns for row in rows] == [2, 3]
    for (prompt, ids, _), (following, _, _) in itertools.pairwise(world.exchanges[2:]):
        assert following[: len(prompt) + len(ids)] == prompt + ids
