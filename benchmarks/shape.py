"""A policy of a published model's shape with random weights, for throughput figures: ``python benchmarks/shape.py --out build/h100/shape``.

Layers, heads and vocabulary are those of ``--config`` (Qwen3-0.6B's config.json); the tokenizer is the built policy's, filled up to the
vocabulary with words that no text contains, so that every token the model samples can be decoded. It learns nothing and is not meant to.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]


@click.command(help=__doc__)
@click.option(
    "--config", type=click.Path(exists=True, path_type=Path), default=ROOT / "tests/forecast/shapes/qwen3-0.6b.json", show_default=True
)
@click.option(
    "--policy", type=click.Path(exists=True, path_type=Path), default=ROOT / "build/h100/policy", help="Whose tokenizer it takes."
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seed", default=0, show_default=True)
def main(config: Path, policy: Path, out: Path, seed: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    out.mkdir(parents=True, exist_ok=True)
    own = json.loads((policy / "config.json").read_text())
    shape = Qwen3Config.from_dict({**json.loads(config.read_text()), "dtype": "bfloat16"})
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(shape, token, own[token])
    (out / "tokenizer.json").write_text(json.dumps(filled(json.loads((policy / "tokenizer.json").read_text()), shape.vocab_size)))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    model.save_pretrained(out)
    for name in ("tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "generation_config.json"):
        if (policy / name).is_file():
            shutil.copy2(policy / name, out / name)
    click.echo(f"{out}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters, vocabulary {shape.vocab_size}")


def filled(tokenizer: dict, vocabulary: int) -> dict:
    """The tokenizer with words for every id up to ``vocabulary``."""
    words = tokenizer["model"]["vocab"]
    words.update(
        {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    )  # or they would be numbered anew, after the filling
    taken = set(words.values())
    words.update({f"<unused{i}>": i for i in range(vocabulary) if i not in taken})
    return tokenizer


if __name__ == "__main__":
    main()
