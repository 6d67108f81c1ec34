"""Reading policy files: what they mean, and every mistake at once by its dotted path."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from policy_kit import SEED
from test_policy_registry import MANIFEST

from hermetic.errors import Domain, HermeticError, HermeticErrors
from hermetic.llm.policy import Policy
from hermetic.llm.policy_reading import read_policy
from hermetic.serve.policy.events import log_of
from hermetic.serve.readiness import SignOffs
from hermetic.serve.triton_deployment import files_hash
from hermetic.store import Store


def read(folder: Path, text: str, name: str = "policy.toml") -> Policy:
    (folder / name).write_text(text)
    return read_policy(str(folder / name)).policy


def wrong(folder: Path, text: str, name: str = "policy.toml") -> list[tuple[object, str]]:
    with pytest.raises(HermeticErrors) as caught:
        read(folder, text, name)
    assert caught.value.exit_code == 3
    assert {(one.domain, one.reason) for one in caught.value.errors} == {(Domain.RECIPE, "policy-invalid")}
    return [(one.data["field"], one.message) for one in caught.value.errors]


def test_the_numbers_of_the_seed_exactly(tmp_path: Path) -> None:
    """0.10 is 0.10, not the binary number next to it."""
    limits = {name: one.limit for name, one in read(tmp_path, SEED).thresholds.given().items()}
    assert limits == {
        "max_prompt_tokens": 4000,
        "max_tokens": 6000,
        "max_cost_usd": Decimal("0.10"),
        "max_queue_delay_us": 2500,
    }


def test_yaml_means_the_same(tmp_path: Path) -> None:
    text = "policy: 1\nrecipients: {finance: {}}\nprices: {price_per_token: 0.00002}\n"
    text += "thresholds:\n  max_cost_usd: {limit: 0.10, action: alert, recipient: finance}\n"
    found = read(tmp_path, text, "policy.yaml")
    assert found.thresholds.max_cost_usd is not None
    assert found.thresholds.max_cost_usd.limit == Decimal("0.10")
    assert found.prices.cost(1000, 0) == Decimal("0.02")


def test_the_operations_of_the_seed_are_always_there(tmp_path: Path) -> None:
    found = read(tmp_path, "policy = 1\n[operations.judge]\nmax_tokens = 9\n[operations.mine]\n").operations
    assert (found["generate_json"].temperature, found["rank_candidates"].temperature) == (0, 0)
    assert found["generate_json"].guided
    assert (found["judge"].temperature, found["judge"].top_p) == (Decimal("0.1"), Decimal("0.9"))
    assert found["judge"].max_tokens == 9
    assert found["mine"].temperature is None


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("policy = 2", "policy", "should be 1"),
        ("", "policy", "must be set"),
        ("policy = 1\nlimits = 3", "limits", "no such field"),
        ("policy = 1\noperations = 3", "operations", "dictionary"),
        ("policy = 1\n[operations]\njudge = 3", "operations.judge", "dictionary"),
        ("policy = 1\n[operations.judge]\ntemperature = 3", "operations.judge.temperature", "less than"),
        ("policy = 1\n[operations.judge]\nmax_tokens = true", "operations.judge.max_tokens", "integer"),
        ("policy = 1\n[thresholds.max_tokens]\nlimit = 3", "thresholds.max_tokens.action", "must be set"),
        (
            'policy = 1\n[thresholds.max_tokens]\nlimit = nan\naction = "reject"',
            "thresholds.max_tokens.limit",
            "finite",
        ),
        (
            'policy = 1\n[thresholds.max_tokens]\nlimit = 3\naction = "alert"',
            "thresholds.max_tokens.recipient",
            "needs a recipient",
        ),
        (
            'policy = 1\n[thresholds.max_tokens]\nlimit = 3\naction = "alert"\nrecipient = "me"',
            "thresholds.max_tokens.recipient",
            "no recipient 'me'",
        ),
        (
            'policy = 1\n[thresholds.max_queue_delay_us]\nlimit = 3\naction = "reject"',
            "thresholds.max_queue_delay_us.action",
            "can only alert",
        ),
        (
            'policy = 1\n[thresholds.max_cost_usd]\nlimit = 3\naction = "reject"',
            "thresholds.max_cost_usd",
            "nothing has a price",
        ),
        ('policy = 1\n[recipients.me]\nwebhook = "ftp://here"', "recipients.me.webhook", "pattern"),
        ('policy = 1\n[redaction]\npatterns = ["a", "("]', "redaction.patterns.1", "no regular expression"),
        ('policy = 1\n[redaction]\npatterns = ["a*"]', "redaction.patterns.0", "empty text"),
        ('policy = 1\n[[readiness.windows]]\nmetric = "llm.latency_ms"', "readiness.windows.0.at_most", "at_least"),
        ('policy = 1\n[prices.price_per_token]\nprompt = "x"', "prices.price_per_token.prompt", "decimal"),
        ("policy = 1\n[canary]\nshare_percent = 80", "canary.share_percent", "50"),
        ("policy = ", "", "Invalid value"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, field: str, says: str) -> None:
    ((where, message),) = wrong(tmp_path, text)
    assert where == field
    assert says in message


def test_all_mistakes_at_once_with_their_lines(tmp_path: Path) -> None:
    text = "policy: 1\nthresholds:\n  max_tokens: {limit: 3, action: alert}\nbogus: 3\n"
    messages = [message for _, message in wrong(tmp_path, text, "policy.yaml")]
    assert [message.removeprefix(f"{tmp_path}/") for message in messages] == [
        "policy.yaml:3: thresholds.max_tokens.recipient: an alert needs a recipient",
        "policy.yaml:4: bogus: there is no such field",
    ]


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(HermeticError) as caught:
        read_policy(str(tmp_path / "none.toml"))
    assert (caught.value.domain, caught.value.reason) == (Domain.USAGE, "no-policy")


def test_the_thresholds_of_a_request_hold_over_time_too(tmp_path: Path) -> None:
    windows = {one.metric: (one.statistic, one.at_most, one.seconds) for one in read(tmp_path, SEED).windows()}
    assert windows == {
        "llm.tokens": ("p95", 6000, 300),
        "llm.cost_usd": ("p95", Decimal("0.10"), 300),
        "llm.queue_delay_us": ("p95", 2500, 300),
    }


def test_check(cli, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(SEED)
    done = cli("serve", "policy", "check", tmp_path / "policy.toml")
    assert done.exit_code == 0, done.stderr
    assert "max_cost_usd over 0.10: alert finance" in done.lines
    assert "operation judge: temperature 0.1, top_p 0.9, max_tokens 512" in done.lines
    done = cli("serve", "policy", "check", tmp_path / "policy.toml", "--json")
    assert json.loads(done.stdout)["policy"]["thresholds"]["max_cost_usd"]["limit"] == "0.10"


def test_check_says_what_is_wrong(cli, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("policy = 1\nbogus = 1\n[schemas]\n")
    done = cli("serve", "policy", "check", tmp_path / "policy.toml")
    assert done.exit_code == 3
    assert "bogus: there is no such field" in done.stderr
    assert "schemas.folder: it must be set" in done.stderr


DEPLOYMENT = {
    "deployment": 1, "kind": "openvino", "quantisation": "int4", "limits": {"max_seq_len": 5120}, "models": ["m"],
    "tensors": "", "engine": {"files": {}, "hash": files_hash({})}, "tokenizer": {"files": {}, "hash": files_hash({})},
}  # fmt: skip


def test_check_beside_a_deployment(cli, tmp_path: Path) -> None:
    """The serving guide's 6,000 tokens on an engine of 5,120."""
    (tmp_path / "policy.toml").write_text(SEED)
    (tmp_path / "deployment.json").write_text(json.dumps(DEPLOYMENT))
    done = cli("serve", "policy", "check", tmp_path / "policy.toml", "--repository", tmp_path)
    assert done.exit_code == 3
    assert "error[recipe/policy-over-engine]" in done.stderr
    assert "max_tokens is 6000, and the engine refuses more than 5120" in done.stderr


def test_sign_off_and_events(cli, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(SEED + '\n[readiness]\nsign_off = ["module-6"]\n')
    (tmp_path / "deployment.json").write_text(json.dumps(DEPLOYMENT))
    done = cli("serve", "policy", "sign-off", policy, "--role", "module-6", "--by", "Ada", "--repository", tmp_path)
    assert done.exit_code == 0, done.stderr
    signed = json.loads(done.stdout)
    assert (signed["role"], signed["by"]) == ("module-6", "Ada")
    assert SignOffs(str(tmp_path / "state" / "sign-offs")).missing(["module-6"], signed["seal"]) == ()
    done = cli("serve", "policy", "sign-off", policy, "--role", "finance", "--by", "Ada", "--repository", tmp_path)
    assert "error[usage/unknown-role]" in done.stderr
    done = cli("serve", "policy", "sign-off", policy, "--role", "module-6", "--by", "Ada")
    assert "error[usage/what-is-signed]" in done.stderr
    log_of(read_policy(str(policy))).write("llm_warmup_completed", model="m")
    done = cli("serve", "policy", "events", policy)
    assert [json.loads(line)["model"] for line in done.lines] == ["m"]


def test_summary(cli, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('runtime_manifests = "manifests"\n' + SEED)
    (tmp_path / "deployment.json").write_text(json.dumps(DEPLOYMENT))
    (tmp_path / "manifests").mkdir()
    ask = ("serve", "policy", "summary", policy, "--repository", tmp_path)
    assert "error[recipe/no-runtime-manifest]" in cli(*ask).stderr
    served = {"engine_hash": files_hash({}), "tokenizer_hash": files_hash({})}
    (tmp_path / "manifests" / "a.json").write_text(json.dumps(MANIFEST | served))
    done = cli(*ask)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["aligned"] is True
    (tmp_path / "manifests" / "a.json").write_text(json.dumps(MANIFEST))
    done = cli(*ask)
    assert done.exit_code == 3
    assert [one["field"] for one in json.loads(done.stdout)["mismatches"]] == ["engine_hash", "tokenizer_hash"]


def test_check_reads_what_the_file_names(cli, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('policy = 1\n[schemas]\nfolder = "schemas"\n')
    assert "error[recipe/no-schemas]" in cli("serve", "policy", "check", tmp_path / "policy.toml").stderr
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "answer.json").write_text("{}")
    done = cli("serve", "policy", "check", tmp_path / "policy.toml")
    assert done.exit_code == 3
    assert "error[recipe/schema-invalid]" in done.stderr


def test_the_example_of_the_document(tmp_path: Path, repository: Path) -> None:
    """Every field of the file is in it."""
    text = (repository / "docs" / "policies.md").read_text("utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert read(tmp_path, example).canary.requests == 100
    unnamed = [name for name in Policy.model_fields if not re.search(rf"^(\[+)?{name}\b", example, re.MULTILINE)]
    assert unnamed == []


def test_a_roll_back_with_a_bad_policy_changes_nothing(cli, tmp_path: Path, store_root: Path) -> None:
    Store.open(store_root, create=True)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert cli("link", "qwen3", tmp_path / name, "--to", tmp_path / "links").exit_code == 0
    (tmp_path / "policy.toml").write_text("policy = 2")
    done = cli("profile", "rollback", "qwen3", "--policy", tmp_path / "policy.toml")
    assert done.exit_code == 3
    assert (tmp_path / "links" / "qwen3").resolve().name == "two"


def test_the_setting_names_policies(cli, tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(store_root, create=True)
    (tmp_path / "policy.toml").write_text("policy = 2")
    monkeypatch.setenv("HERMETIC_POLICIES", f"qwen3={tmp_path}/policy.toml other={tmp_path}/none.toml")
    assert "error[recipe/policy-invalid]" in cli("profile", "rollback", "qwen3").stderr
    assert "error[usage/unknown-profile]" in cli("profile", "rollback", "third").stderr
