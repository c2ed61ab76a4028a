"""A file to a configuration: every kind of mistake has an id, a place and the nearest known name."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import orjson
import pytest

from swerl.config import dump_resolved, examine, load, load_resolved
from swerl.demo import DEMONSTRATIONS
from swerl.errors import SwerlError

NO_ENV: dict[str, str] = {}


def problems(path: Path, **more):
    return examine(path, env=NO_ENV, **more).problems


def one(path: Path, **more):
    (problem,) = problems(path, **more)
    return problem


@pytest.mark.parametrize(
    ("text", "id", "place", "says"),
    [
        ("vllm:\n  gen_tpp: 2\n", "SWERL-C004", ":4:3", "did you mean `vllm.gen_tp`?"),
        ("training:\n  learning_rate: 1\n", "SWERL-C004", ":4:3", "did you mean `algorithm.learning_rate`?"),
        ("trainig:\n  mode: sync\n", "SWERL-C004", ":3:1", "did you mean `training`?"),
        ("vllm.gen_tp: 2\n", "SWERL-C004", ":3:1", "one word"),
        ("algorithm.filter_groups: {enable: true}\n", "SWERL-C004", ":3:1", "one word"),
        ("vllm:\n  gen_tp: two\n", "SWERL-C005", ":4:3", "must be integer, not text"),
        ("vllm:\n  gen_tp: 1.5\n", "SWERL-C005", ":4:3", "must be integer"),
        ("training: 3\n", "SWERL-C005", ":3:1", "must be object"),
        ("harbor_agent:\n  verifier_enabled: yes\n", "SWERL-C005", ":4:3", "must be boolean"),
        ("vllm:\n  gen_tp: 0\n", "SWERL-C006", ":4:3", "minimum"),
        ("vllm: {dtype: int8}\n", "SWERL-C006", ":3:8", "bfloat16"),
        ("harbor_agent: {agent_import_path: nomodule}\n", "SWERL-C006", ":3:16", "does not match"),
        ("experiment:\n  logger: [console, carrier-pigeon]\n", "SWERL-C006", ":4:21", "wandb"),
        ("infrastructure:\n  nnodes: human\n", "SWERL-C007", ":4:3", "placeholder 'human'"),
        ("harbor_agent:\n  docker_host: tcp://<host>:2376\n", "SWERL-C007", ":4:3", "<host>"),
        ("runtime_info:\n  output:\n    val_resolve_rate: {value: 0.5}\n", "SWERL-C005", ":5:24", "must be null"),
        ("meta_info: {name: rl}\n", "SWERL-C008", ":3:1", "nested form"),
        ("runtime_info:\n  input: {}\n", "SWERL-C008", ":4:3", "nested form"),
        ("verl_overrides:\n  'not a key': 1\n", "SWERL-C004", ":3:1", "not a key"),
    ],
)
def test_mistakes(write, text, id, place, says):
    problem = one(write(text))
    assert problem.id == id
    assert problem.where.endswith(f"config.yaml{place}"), problem.where
    assert says in problem.message
    assert problem.remedy


def test_placeholders_alone_leave_a_configuration_to_look_at(root):
    found = examine(root / "config.yaml", env=NO_ENV)
    assert {p.id for p in found.problems} == {"SWERL-C007"}
    assert found.config is not None and not found.ok
    with pytest.raises(SwerlError):
        load(root / "config.yaml", env=NO_ENV)


def test_all_problems_come_at_once(write):
    path = write("vllm: {gen_tp: 0, dtypo: x}\nk8s: {namespace: 7}\n")
    with pytest.raises(SwerlError) as error:
        load(path, env=NO_ENV)
    assert {p.id for p in error.value.problems} == {"SWERL-C004", "SWERL-C005", "SWERL-C006"}


def test_an_empty_section_keeps_its_defaults(write):
    assert load(write("vllm:\n  # nothing yet\n"), env=NO_ENV).vllm.gen_tp == 4


def test_a_key_without_effect_is_a_warning(write):
    problem = one(write("infrastructure: {anthropic_api_key: sk-other}\n"))
    assert (problem.id, problem.severity) == ("SWERL-C014", "warning")


# Profiles and --set


def test_a_profile_is_laid_over_key_by_key(write, tmp_path):
    path = write("vllm: {gen_tp: 2, max_num_seqs: 7}\nexperiment: {logger: [console, wandb]}\n")
    write("vllm: {gen_tp: 1}\nexperiment: {logger: [console]}\n", "profiles/small.yaml", filled=False)
    config = load(path, "small", env=NO_ENV)
    assert (config.vllm.gen_tp, config.vllm.max_num_seqs, config.experiment.logger) == (1, 7, ("console",))
    assert config.source["vllm.gen_tp"].endswith("small.yaml:1:8")
    assert config.source["vllm.max_num_seqs"].endswith("config.yaml:3:19")
    assert config.source["vllm.seed"] == "default"
    assert config.experiment.exp_name == "small" and config.source["experiment.exp_name"] == "auto"


def test_a_mistake_in_a_profile_is_placed_in_the_profile(write):
    path = write("")
    write("vllm:\n  gen_tpp: 1\n", "profiles/bad.yaml", filled=False)
    assert one(path, profile="bad").where.endswith("bad.yaml:2:3")


def test_an_unknown_profile_names_the_known_ones(write):
    with pytest.raises(SwerlError) as error:
        load(write(""), "demo-cpuu", env=NO_ENV)
    (problem,) = error.value.problems
    assert problem.id == "SWERL-C010" and "demo-cpu" in problem.message + problem.remedy


def test_set_wins_and_is_checked(write):
    path = write("vllm: {gen_tp: 2}\n")
    config = load(path, overrides={"vllm.gen_tp": "1", "algorithm.learning_rate": "1e-5", "experiment.logger": "[console]"}, env=NO_ENV)
    assert (config.vllm.gen_tp, config.algorithm.learning_rate, config.experiment.logger) == (1, 1e-5, ("console",))
    assert config.source["vllm.gen_tp"] == "--set"
    assert one(path, overrides={"vllm.gen_tp": "none"}).where == "--set"


@pytest.mark.parametrize(("name", "says"), [("vllm.gen_tpp", "vllm.gen_tp"), ("gen_tp", "vllm.gen_tp")])
def test_set_of_an_unknown_key(write, name, says):
    with pytest.raises(SwerlError) as error:
        load(write(""), overrides={name: "1"}, env=NO_ENV)
    assert error.value.problems[0].id == "SWERL-C009" and says in error.value.problems[0].message


def test_set_of_a_verl_key_keeps_its_dots(write):
    config = load(write(""), overrides={"verl_overrides.actor_rollout_ref.actor.ppo_epochs": "2"}, env=NO_ENV)
    assert dict(config.verl_overrides) == {"actor_rollout_ref.actor.ppo_epochs": 2}


# Secrets


def test_the_environment_wins_for_secrets_and_they_stay_apart(write):
    path = write("credentials: {wandb_api_key: from-file}\n")
    config = load(path, env={"WANDB_API_KEY": "from-env"})
    assert config.secrets.wandb_api_key == "from-env"
    for text in (repr(config), str(config.as_dict()), dump_resolved(config).decode()):
        assert "from-env" not in text and "from-file" not in text


def test_a_key_that_wandb_stored_is_found_last(write, tmp_path):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password of-the-login\n")
    home = {"HOME": str(tmp_path)}
    config = load(write('credentials: {wandb_mode: online, wandb_api_key: ""}\n'), env=home)
    assert config.secrets.wandb_api_key == "of-the-login" and b"of-the-login" not in dump_resolved(config)
    path = tmp_path / "resolved.json"
    path.write_bytes(dump_resolved(config))
    assert load_resolved(path, env=home).secrets.wandb_api_key == "of-the-login"
    assert load(config.file, env={**home, "WANDB_API_KEY": "exported"}).secrets.wandb_api_key == "exported"
    own = load(write("credentials: {wandb_api_key: in-the-file}\n"), env=home)
    assert own.secrets.wandb_api_key == "in-the-file"
    write('credentials: {wandb_mode: online, wandb_api_key: ""}\n')
    for text in ("machine api.wandb.ai login", "machine elsewhere.example login a password b\n"):
        (tmp_path / ".netrc").write_text(text)
        assert load(config.file, env=home).secrets.wandb_api_key == ""


def test_a_secret_in_a_file_is_a_warning_that_does_not_show_it(write):
    problem = one(write("credentials: {wandb_api_key: hunter2}\n"))
    assert (problem.id, problem.severity) == ("SWERL-C013", "warning")
    assert "hunter2" not in str(problem)


def test_a_malformed_secret_is_not_shown(write):
    assert "hunter2" not in str(problems(write("credentials: {wandb_api_key: [hunter2]}\n")))


# Resolved form


def test_resolved_json_gives_the_same_configuration(root, tmp_path):
    config = load(root / "config.yaml", "demo-cpu", env={"WANDB_API_KEY": "k" * 40})
    path = tmp_path / "resolved.json"
    path.write_bytes(dump_resolved(config))
    assert load_resolved(path, env={"WANDB_API_KEY": "k" * 40}) == config
    assert load_resolved(path, env={}).secrets.wandb_api_key == ""


def test_a_run_older_than_a_key_is_read_with_its_default(root, tmp_path):
    body = orjson.loads(dump_resolved(load(root / "config.yaml", "demo-cpu", env=NO_ENV)))
    del body["config"]["capture"], body["config"]["vllm"]["seed"]
    body["digest"] = hashlib.sha256(orjson.dumps(body["config"], option=orjson.OPT_SORT_KEYS)).hexdigest()
    (tmp_path / "resolved.json").write_bytes(orjson.dumps(body))
    config = load_resolved(tmp_path / "resolved.json", env={})
    assert config.capture.paths == "main"
    assert config.digest == body["digest"]


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_damaged_resolved_json_is_refused(root, tmp_path, damage):
    config = load(root / "config.yaml", "demo-cpu", env=NO_ENV)
    path = tmp_path / "resolved.json"
    path.write_bytes(dump_resolved(config).replace(b'"gen_tp": 1', b'"gen_tp": 2') if damage is None else damage)
    with pytest.raises(SwerlError) as error:
        load_resolved(path, env={})
    assert error.value.problems[0].id == "SWERL-C011"


def test_the_digest_follows_values_and_ignores_secrets_and_spelling(write):
    base = load(write("vllm: {gen_tp: 2}\n"), env=NO_ENV)
    assert load(write("# other words\nvllm:\n  gen_tp: 2\n"), env={"WANDB_API_KEY": "k" * 20}).digest == base.digest
    assert load(write("vllm: {gen_tp: 4}\n"), env=NO_ENV).digest != base.digest


def test_the_configuration_cannot_be_changed(root):
    config = load(root / "config.yaml", "demo-cpu", env=NO_ENV)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.vllm.gen_tp = 8
    with pytest.raises(TypeError):
        config.verl_overrides["a"] = 1


@pytest.mark.parametrize("profile", sorted(p.stem for p in (Path(__file__).resolve().parents[2] / "profiles").glob("*.yaml")))
def test_every_shipped_profile_is_without_problems(root, profile):
    """But for what its user fills in: the paths of his policy and tasks, where the profile does not build them."""
    problems = examine(root / "config.yaml", profile, env=NO_ENV).problems
    builds = profile in DEMONSTRATIONS
    assert {problem.id for problem in problems} == (set() if builds else {"SWERL-C007"})
