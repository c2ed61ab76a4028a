"""Problems of configuration and rendering by id: what each means. docs/troubleshooting.md is made from this and the checks' own texts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PROBLEMS: Mapping[str, str] = MappingProxyType(
    {
        "SWERL-C001": "The configuration file cannot be read: it is missing, locked away, or not UTF-8.",
        "SWERL-C002": "The file is not YAML, or not a mapping of sections.",
        "SWERL-C003": "A key appears twice in one mapping; YAML would silently keep the last one.",
        "SWERL-C004": "A key is unknown. The nearest known name is given; verl's own keys belong under `verl_overrides`.",
        "SWERL-C005": "A value has the wrong type. `yes` and `on` are words here; true and false are the only truth values.",
        "SWERL-C006": "A value is out of bounds, not one of the allowed words, or not of the required form.",
        "SWERL-C007": "A placeholder is still in place (`/path/to/...`, `human`, `<...>`, `REPLACE_ME`, `YOUR_...`, `changeme`).",
        "SWERL-C008": "The file has the reference's nested form; `swerl config migrate` rewrites it.",
        "SWERL-C009": "`--set`, or a key named on the command line, does not name a key of the schema, or its value is not YAML.",
        "SWERL-C010": "There is no profile of that name beside the file or in the project.",
        "SWERL-C011": "A resolved.json is missing, damaged, or was changed by hand.",
        "SWERL-C012": "An entry of `verl_overrides` fights a key of ours, or something swerl itself sets, or nothing would read it.",
        "SWERL-C013": "A secret stands in a file (warning). Secrets belong in the environment, which wins.",
        "SWERL-C014": "A key without effect was set (warning); the schema gives the reason.",
        "SWERL-C015": "An entry of `verl_overrides` is no key of the installed verl, has a `+` for one that is, or comes twice.",
        "SWERL-C016": "verl's configuration cannot be composed: verl is not installed there, or Hydra refuses an entry.",
        "SWERL-C017": "The agent or the sandbox cannot do what a key asks for, or is not named exactly once.",
        "SWERL-C018": "The key of a mapping in `verl_overrides` cannot be written in Hydra's language.",
    }
)
