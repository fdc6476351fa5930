"""Is the table in force the one that was written? Judged from what nftables shows of it.

Pure. Written for the order and the words of libnftables-json(5), not for its exact output, which differs between versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, collapse_addresses, summarize_address_range
from typing import Any

from hearth.core.addresses import DENY4
from hearth.egress.ruleset import SETS, Chain, Names, chains

_VERDICTS = ("accept", "drop", "return", "goto", "jump", "reject", "masquerade")


def _verdict(rule: Mapping[str, Any]) -> str:
    """The verdict of a rule as nftables shows it, in the words of `chains`."""
    for statement in rule.get("expr", []):
        for word in _VERDICTS:
            if word not in statement:
                continue
            value = statement[word]
            if word in ("goto", "jump"):
                return f"{word} {value['target']}"
            if word == "reject":
                return "reject with tcp reset" if value and value.get("type") == "tcp reset" else "reject"
            return word
    return ""


def _expected(verdict: str) -> str:
    return "reject" if verdict.startswith("reject with icmpx") else verdict


def _network(element: Any) -> list[IPv4Network]:
    if isinstance(element, str):
        return [IPv4Network(element)]
    if "prefix" in element:
        return [IPv4Network((element["prefix"]["addr"], element["prefix"]["len"]))]
    first, last = element["range"]
    return list(summarize_address_range(IPv4Address(first), IPv4Address(last)))


def faults(names: Names, shown: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with a platform's table as it was read back; empty when it stands as it should. See `differences`."""
    return differences(chains(names), SETS, shown, names.private)


def differences(
    wanted: Iterable[Chain],
    sets: Iterable[tuple[str, str]],
    shown: Iterable[Mapping[str, Any]],
    private: Iterable[IPv4Network] = (),
) -> list[str]:
    """What is wrong with a table as it was read back; empty when it stands as it should.

    Compares, chain by chain, hook, priority, policy and the verdict of each rule in order; that rules match on
    something where they should; the sets; that every denied range is denied, and no more private ones are open than
    the operator said. Written for the order and the words of libnftables-json(5), not for its exact output, which
    differs between versions.
    """
    wrong: list[str] = []
    have_chains: dict[str, Mapping[str, Any]] = {}
    have_rules: dict[str, list[Mapping[str, Any]]] = {}
    have_sets: dict[str, Mapping[str, Any]] = {}
    for item in shown:
        for kind, value in item.items():
            if kind == "chain":
                have_chains[value["name"]] = value
            elif kind == "rule":
                have_rules.setdefault(value["chain"], []).append(value)
            elif kind == "set":
                have_sets[value["name"]] = value
    for chain in wanted:
        have = have_chains.pop(chain.name, None)
        if have is None:
            wrong.append(f"chain {chain.name} is missing")
            continue
        hook = (have["type"], have["hook"], have["prio"]) if "hook" in have else ()
        if hook != chain.hook or (hook and have.get("policy") != chain.policy):
            wrong.append(f"chain {chain.name} hangs elsewhere")
        want = [_expected(verdict) for _, verdict in chain.rules]
        rules = have_rules.get(chain.name, [])
        if [_verdict(rule) for rule in rules] != want:
            wrong.append(f"chain {chain.name} has other rules")
            continue
        for (match, _), rule in zip(chain.rules, rules, strict=True):
            if bool(match) != any(_matches(statement) for statement in rule["expr"]):
                wrong.append(f"chain {chain.name} has a rule with another match")
    wrong += [f"chain {name} is not ours" for name in have_chains]
    wrong += [f"set {name} is missing" for name, _ in sets if name not in have_sets]
    for name, ranges in (("deny4", DENY4), ("private4", private)):
        if name in have_sets:
            there = [n for element in have_sets[name].get("elem", []) for n in _network(element)]
            if list(collapse_addresses(there)) != list(collapse_addresses(ranges)):
                wrong.append(f"set {name} has other ranges")
    return wrong


def fingerprint(shown: Iterable[Mapping[str, Any]]) -> str:
    """The table's chains and rules as text, without handles, counters and what is in the sets: equal while nobody
    edits a rule. Only comparable on one machine."""
    kept = []
    for item in shown:
        for kind, value in item.items():
            if kind in ("chain", "rule"):
                plain = {key: part for key, part in value.items() if key != "handle"}
                plain["expr"] = [part for part in value.get("expr", []) if "counter" not in part]
                kept.append((kind, plain))
    return json.dumps(kept, sort_keys=True)


def _matches(statement: Any) -> bool:
    return isinstance(statement, dict) and any(
        word in statement for word in ("match", "set", "limit", "log", "ct count")
    )
