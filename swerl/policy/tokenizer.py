"""The policy's tokenizer: byte-level BPE on generated tasks, ChatML with hermes-style tool calls.

Properties that the rest relies on, each tested: every text round-trips; the call scaffold and the prefix of a ``cat -n`` line are single
tokens; the template gives back an assistant's sampled text for a well-formed call, whether the call's arguments are a JSON string or an
object; the text that the template adds after an assistant turn is ``protocol.observation_text``. Tools are rendered as their names only,
which saves tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from swerl.data.generate import RepairTask
from swerl.data.generate.families import NOUNS, VERBS
from swerl.policy import protocol
from swerl.policy.recipe import SMALL, Shape

SPECIAL = ("<|endoftext|>", "<|im_start|>", protocol.END)
WHOLE = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "\n<tool_response>\n",
    "\n</tool_response>",
    protocol.CALL_OPEN,
    protocol.CALL_CLOSE,
    "cat -n",
    "sed -i '",
)
# A line prefix of `cat -n` is a word of its own; the rest is Qwen's pattern with single digits.
PIECES = r" +[0-9]+\t|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = "Fix the bug. Tools: bash system user assistant done (no output) sed -i cat -n"

# Every newline is written out: the text must not depend on how a renderer trims blocks.
TEMPLATE = r"""
{%- macro text(content) -%}
  {%- if content is string -%}{{- content -}}
  {%- else -%}{%- for part in content or [] -%}{{- part.text -}}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
  {{- '<|im_start|>system\n' -}}
  {%- if messages[0].role == 'system' -%}{{- text(messages[0].content) | trim + '\n' -}}{%- endif -%}
  {{- 'Tools:' -}}{%- for tool in tools -%}{{- ' ' + tool.function.name -}}{%- endfor -%}{{- '<|im_end|>\n' -}}
{%- elif messages[0].role == 'system' -%}
  {{- '<|im_start|>system\n' + (text(messages[0].content) | trim) + '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
    {{- '<|im_start|>' + message.role + '\n' + (text(message.content) | trim) + '<|im_end|>\n' -}}
  {%- elif message.role == 'assistant' -%}
    {{- '<|im_start|>assistant\n' + text(message.content) -}}
    {%- for tool_call in message.tool_calls or [] -%}
      {%- set call = tool_call.function or tool_call -%}
      {%- if message.content or not loop.first -%}{{- '\n' -}}{%- endif -%}
      {{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' -}}
      {%- if call.arguments is string -%}{{- call.arguments -}}{%- else -%}{{- call.arguments | tojson -}}{%- endif -%}
      {{- '}\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\n' -}}
  {%- elif message.role == 'tool' -%}
    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
    {{- '\n<tool_response>\n' + text(message.content).rstrip() + '\n</tool_response>' -}}
    {%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\n' -}}{%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


def build(tasks: list[RepairTask], shape: Shape = SMALL) -> PreTrainedTokenizerFast:
    """The tokenizer of ``shape.vocabulary`` entries, trained on the texts of ``tasks``; equal tasks give an equal tokenizer."""
    core = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    size = shape.vocabulary - len(WHOLE) - len(SPECIAL)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False
    )
    core.train_from_iterator(_corpus(tasks, shape.numbered_lines), trainer)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in WHOLE])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=protocol.END,
        pad_token=SPECIAL[0],
        model_max_length=shape.positions,
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids without anything added (the Rust tokenizer directly: the wrapper costs several times the work)."""
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def prompt_text(tokenizer: PreTrainedTokenizerFast, instruction: str) -> str:
    """The rendered prompt of a trial's first turn."""
    return tokenizer.apply_chat_template(protocol.messages(instruction), tools=protocol.TOOLS, tokenize=False, add_generation_prompt=True)


def _corpus(tasks: list[RepairTask], numbered_lines: int) -> Iterator[str]:
    for task in tasks:
        yield f"{task.issue}\n{protocol.numbered(task.code)}{task.edit.command(task.file)}\n{task.code}{WORDS}"
    # Words that every trial holds become whole tokens, however rare they are in the tasks' own text.
    for word in ("system", "user", "assistant", protocol.DONE):
        yield "\n".join([word] * 3000)
    for line in range(1, numbered_lines + 1):
        yield "\n".join([f"{line:6d}\t"] * 2000)
    for verb in VERBS:
        yield " ".join([verb] * 500)
    for noun in NOUNS:
        yield " ".join([f"x_{noun}"] * 500)
