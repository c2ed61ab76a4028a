"""A small, healthy site: a policy, tasks, indexes and a profile that preflight has nothing to say against. Tests plant one fault in it.

Everything is real: safetensors files with every tensor, a tokenizer that loads, parquet indexes, task directories. What cannot be real on
this machine (GPUs, a daemon) is a program of that name on PATH, which is what the checks ask. Loaded by path from conftest files, because
test directories are no packages.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet

from swerl.config import RunConfig, examine
from swerl.data import task_hash
from swerl.preflight import Host, Report, run
from swerl.preflight.context import Context

PROJECT = Path(__file__).resolve().parents[2]
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 320,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
    "dtype": "float32",
    "eos_token_id": 257,
}
HERMES = (
    "{%- if tools %}<|im_start|>system\nTools: {% for t in tools %}{{ t.function.name }} {% endfor %}<|im_end|>\n{% endif %}"
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{%- for c in m.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{%- endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGS = HERMES.replace(
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>',
    "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}"
    "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>",
)


def tensors(shape: Mapping) -> dict[str, int]:
    """Names and element counts of a Qwen3 checkpoint."""
    h, d, q, kv, m = (
        shape["hidden_size"],
        shape["head_dim"],
        shape["num_attention_heads"],
        shape["num_key_value_heads"],
        shape["intermediate_size"],
    )
    found = {"model.embed_tokens.weight": shape["vocab_size"] * h, "model.norm.weight": h}
    if not shape["tie_word_embeddings"]:
        found["lm_head.weight"] = shape["vocab_size"] * h
    for layer in range(shape["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        found |= {f"{p}self_attn.{n}_proj.weight": h * d * (q if n in "qo" else kv) for n in "qkvo"}
        found |= {f"{p}self_attn.{n}_norm.weight": d for n in "qk"}
        found |= {f"{p}mlp.{n}_proj.weight": h * m for n in ("gate", "up", "down")}
        found |= {f"{p}{n}_layernorm.weight": h for n in ("input", "post_attention")}
    return found


def write_safetensors(path: Path, sizes: Mapping[str, int]) -> None:
    header, at = {}, 0
    for name, count in sizes.items():
        header[name] = {"dtype": "F32", "shape": [count], "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def write_policy(folder: Path, shape: Mapping = SHAPE, template: str = HERMES) -> Path:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape))
    write_safetensors(folder / "model.safetensors", tensors(shape))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [257]}))
    return folder


def write_task(folder: Path, text: str = "Fix the bug.") -> Path:
    files = {
        "instruction.md": text,
        "task.toml": 'version = "1.0"\n[verifier]\ntimeout_sec = 30.0\n[agent]\ntimeout_sec = 60.0\n',
        "tests/test.sh": "#!/bin/bash\nmkdir -p /logs/verifier\ntest -f /app/done\necho $((1 - $?)) > /logs/verifier/reward.txt\n",
        "solution/solve.sh": "#!/bin/bash\nmkdir -p /app && touch /app/done\n",
        "environment/Dockerfile": "FROM debian:12\nWORKDIR /app\n",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755 if name.endswith(".sh") else 0o644)
    return folder


def write_index(path: Path, tasks: list[Path], *, hashes: list[str] | None = None) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": (t / "instruction.md").read_text() if (t / "instruction.md").is_file() else ""}],
            "data_source": "swerl",
            "reward_model": {"style": "rule", "ground_truth": None},
            "extra_info": {
                "task_path": os.path.relpath(t, path.parent),
                "task_hash": hashes[i] if hashes else task_hash(t),
                "task_id": t.name,
                "split": path.stem,
                "index": i,
            },
        }
        for i, t in enumerate(tasks)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


class Site:
    """``preflight(sets, ...)`` runs the checks on this site with the profile demo-cpu and the given keys."""

    def __init__(self, root: Path):
        self.root = root
        self.model = write_policy(root / "policy")
        self.data = root / "data"
        self.train = [write_task(self.data / "tasks" / f"train-{i}", f"Fix bug {i}.") for i in range(8)]
        self.val = [write_task(self.data / "tasks" / f"val-{i}", f"Fix held-out bug {i}.") for i in range(4)]
        self.index()
        self.bin = root / "bin"
        self.bin.mkdir()
        self.home = root / "home"
        self.home.mkdir()
        self.env: dict[str, str] = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.home)}
        self.places: dict[str, Path] = {"home": self.home}
        self.sets: dict[str, object] = {
            "model.model_path": str(self.model),
            "data.data_dir": str(self.data),
            "experiment.runs_dir": str(root / "runs"),
            "experiment.exp_name": "site",
            "training.total_epochs": 16,
            "training.log_prob_micro_batch_size_per_gpu": 32,
            "harbor_runtime.num_workers": 4,
            "infrastructure.litellm_port": free_port(),
        }

    def index(self) -> None:
        write_index(self.data / "train.parquet", self.train)
        write_index(self.data / "val.parquet", self.val)

    def config(self, sets: Mapping[str, object] | None = None) -> tuple[RunConfig, tuple]:
        chosen = {k: v if isinstance(v, str) else json.dumps(v) for k, v in {**self.sets, **(sets or {})}.items()}
        found = examine(PROJECT / "config.yaml", "demo-cpu", chosen, self.env)
        assert found.config is not None, found.problems
        return found.config, found.problems

    def host(self) -> Host:
        return Host(**self.places)

    def context(self, sets: Mapping[str, object] | None = None) -> Context:
        config, problems = self.config(sets)
        return Context(config, problems=problems, env=self.env, host=self.host())

    def preflight(self, sets: Mapping[str, object] | None = None, **choice: object) -> Report:
        config, problems = self.config(sets)
        return run(config, problems=problems, env=self.env, host=self.host(), **{"patience": 6.0, **choice})

    def program(self, name: str, script: str) -> Path:
        """A program that the checks find on PATH before any other of its name."""
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        return path

    def gpus(
        self,
        count: int = 8,
        *,
        memory_mb: int = 81559,
        used_mb: int = 4,
        driver: str = "580.95.05",
        processes: str = "",
        topology: str = "",
        on_card_1: Mapping[str, str] | None = None,
    ) -> None:
        """A host with these cards, as far as ``nvidia-smi`` tells; ``processes`` run on card 0 (``GPU-0``), and ``on_card_1`` says what is
        different about card 1. Like the real one it answers the fields asked for, and heeds ``--id=0,1``."""
        usual = {"name": "NVIDIA H100 80GB HBM3", "memory.total": memory_mb, "memory.used": used_mb, "driver_version": driver}
        usual |= {"compute_mode": "Default", "mig.mode.current": "Disabled", "ecc.errors.uncorrected.volatile.total": 0}
        usual |= {"fabric.state": "Completed", "gpu_recovery_action": "None"}
        cards = [{"index": i, "uuid": f"GPU-{i}", **usual, **((on_card_1 or {}) if i == 1 else {})} for i in range(count)]
        table = "\n".join([",".join(cards[0]), *(",".join(map(str, card.values())) for card in cards)])
        self.program(
            "nvidia-smi",
            f"""ids="${{3:+,${{3#--id=}},}}"
case "$1" in
--query-gpu=*) awk -F, -v want="${{1#--query-gpu=}}" -v ids="$ids" '
NR == 1 {{ for (i = 1; i <= NF; i++) at[$i] = i; n = split(want, names, ","); next }}
ids == "" || index(ids, "," $1 ",") {{ for (i = 1; i <= n; i++) printf "%s%s", $(at[names[i]]), i < n ? ", " : "\\n" }}' <<'END'
{table}
END
;;
--query-compute-apps=*) case "${{ids:-,0,}}" in *,0,*) printf '%s' '{processes}';; esac;;
topo) cat <<'END'
{topology}
END
;;
esac""",
        )

    def proc(self, **files: str) -> Path:
        """A /proc whose files named here (``meminfo``, ``cgroups``, ``self_mountinfo``, ``locks``) say something else."""
        folder = self.root / "proc"
        for name, content in files.items():
            path = folder / name.replace("_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        for name in ("meminfo", "cgroups", "self/mountinfo", "self/cgroup", "locks"):
            if not (folder / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path("/proc") / name, folder / name)
        self.places["proc"] = folder
        return folder


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
