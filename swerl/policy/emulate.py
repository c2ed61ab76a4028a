"""Demo trials without a sandbox: a batched sampler, a two-command shell and an in-process grader. For measuring and tuning the policy only.

The shell knows ``cat [-n] FILE`` and ``sed -i 'Ns/old/new/[g]' FILE`` on the task's own files, by Python's own means; every other command
is refused and changes nothing. Patterns with regular-expression signs are refused too, so a rate measured here can fall short of a real
shell's by the few trials in which such a pattern would have worked; it never exceeds it.
"""

from __future__ import annotations

import ast
import functools
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3ForCausalLM

from swerl.data.generate import RepairTask
from swerl.data.generate.repair import Case
from swerl.policy import protocol
from swerl.policy.tokenizer import encode, prompt_text

_CAT = re.compile(r"cat( -n)? ([a-z]+\.py)")
_SED = re.compile(r"sed -i '([0-9]*)s/([^/']+)/([^/']*)/(g?)' ([a-z]+\.py)")
_PATTERN_SIGNS = set("[]*.^$\\")
_BUILTINS = {"range": range, "max": max, "min": min, "pow": pow}  # all that the families' functions call
GRADE_CPU_S = 1.0  # processor time: a busy machine must not fail a right repair


@dataclass(slots=True)
class Trial:
    """One emulated trial. ``ids`` is prompt and trial; ``sampled`` says which tokens the policy wrote."""

    task: RepairTask
    ids: list[int]
    sampled: list[bool]
    files: dict[str, str]
    commands: list[str] = field(default_factory=list)
    malformed: bool = False
    running: bool = True
    reward: float = 0.0

    @property
    def read_first(self) -> bool:
        return bool(self.commands) and self.commands[0].startswith("cat")

    @property
    def edited(self) -> bool:
        return any(command.startswith("sed") for command in self.commands)


def run_command(files: dict[str, str], command: str) -> tuple[str, dict[str, str]]:
    """(output, files after it); ``files`` itself is left alone."""
    if (cat := _CAT.fullmatch(command)) is not None:
        numbered, name = cat.groups()
        if name not in files:
            return f"cat: {name}: No such file or directory\n", files
        return protocol.numbered(files[name]) if numbered else files[name], files
    if (sed := _SED.fullmatch(command)) is not None:
        line, old, new, everywhere, name = sed.groups()
        if name not in files:
            return f"sed: can't read {name}: No such file or directory\n", files
        signs = set(old[1:] if old.startswith("*") else old) & _PATTERN_SIGNS or set(new) & set("&\\") or line == "0"
        if not signs:
            lines = files[name].splitlines()
            chosen = range(len(lines)) if not line else [i for i in [int(line) - 1] if i < len(lines)]
            for i in chosen:
                lines[i] = lines[i].replace(old, new, -1 if everywhere else 1)
            return "", {**files, name: "\n".join(lines) + "\n"}
    return "bash: refused\n", files


def grade(task: RepairTask, files: dict[str, str]) -> float:
    """1.0 if every hidden case holds, else 0.0."""
    if files == {**task.files, task.file: task.gold}:
        return 1.0
    return 0.0 if files == task.files else _grade(task.cases, tuple(sorted(files.items())))


@functools.lru_cache(maxsize=50_000)
def _grade(cases: tuple[Case, ...], files: tuple[tuple[str, str], ...]) -> float:
    namespaces: dict[str, dict[str, Any]] = {}
    try:
        with _time_limit(GRADE_CPU_S):
            for name, code in files:
                namespaces[name.removesuffix(".py")] = _run_module(code)
            for case in cases:
                call = f"{case.function}({case.args})"
                if eval(call, namespaces[case.module]) != ast.literal_eval(case.expected):
                    return 0.0
    except Exception:  # whatever an edited program raises, a hang included, is a failed test
        return 0.0
    return 1.0


def _run_module(code: str) -> dict[str, Any]:
    """Run a module that may use no import, no attribute and no builtin beyond a few: a mangled edit cannot reach the machine."""
    tree = ast.parse(code)
    if any(isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute) for node in ast.walk(tree)):
        raise ValueError("import or attribute in an edited module")
    namespace: dict[str, Any] = {"__builtins__": _BUILTINS}
    exec(compile(tree, "<trial>", "exec"), namespace)
    return namespace


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@torch.no_grad()
def run_trials(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[RepairTask],
    generator: torch.Generator,
    temperature: float = 1.0,
    instruction: Any = lambda task: task.issue,
) -> list[Trial]:
    """One trial per task, all at once; temperature 0 takes the likeliest token. ``instruction`` gives the text the policy sees."""
    trials = []
    for task in tasks:
        ids = encode(tokenizer, prompt_text(tokenizer, instruction(task)))
        trials.append(Trial(task, ids, [False] * len(ids), dict(task.files)))
    for turn in range(protocol.MAX_TURNS):
        running = [trial for trial in trials if trial.running]
        if not running:
            break
        answers = _sample(model, tokenizer, [trial.ids for trial in running], generator, temperature)
        for trial, answer in zip(running, answers, strict=True):
            trial.ids += answer
            trial.sampled += [True] * len(answer)
            text = tokenizer.decode(answer)
            command = protocol.parse_call(text)
            ended = answer[-1] == tokenizer.eos_token_id
            if not ended or command is None:
                trial.running, trial.malformed = False, not ended or "<tool_call>" in text
                continue
            output, trial.files = run_command(trial.files, command)
            trial.commands.append(command)
            if turn + 1 == protocol.MAX_TURNS:
                trial.running = False
                continue
            seen = encode(tokenizer, protocol.observation_text(output))
            trial.ids += seen
            trial.sampled += [False] * len(seen)
    for trial in trials:
        trial.reward = grade(trial.task, trial.files)
    return trials


def _sample(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], generator: torch.Generator, temperature: float
) -> list[list[int]]:
    """One turn for each prompt, end token included unless the token limit came first."""
    device, rows, longest = model.device, len(prompts), max(map(len, prompts))
    ids = torch.full((rows, longest), tokenizer.pad_token_id)
    seen = torch.zeros(rows, longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        seen[row, longest - len(prompt) :] = 1
    ids, seen = ids.to(device), seen.to(device)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    answers = torch.full((rows, protocol.MAX_NEW_TOKENS), tokenizer.pad_token_id, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    lengths = torch.zeros(rows, dtype=torch.long, device=device)
    for step in range(protocol.MAX_NEW_TOKENS):
        output = model(input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = output.logits[:, -1].float()
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            chosen = torch.multinomial(F.softmax(logits / temperature, -1), 1, generator=generator)[:, 0]
        answers[:, step] = chosen
        lengths += ~finished
        finished |= chosen == tokenizer.eos_token_id
        if bool(finished.all()):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        seen = torch.cat([seen, torch.ones(rows, 1, dtype=torch.long, device=device)], 1)
    return [answer[:length] for answer, length in zip(answers.tolist(), lengths.tolist(), strict=True)]
