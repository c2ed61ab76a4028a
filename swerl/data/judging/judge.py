"""judge.py CONFIG REPORT OUTPUT: prints the reward of a converted record as JSON, or nothing (exit code 1) when no test runner ran.

CONFIG holds FAIL_TO_PASS and PASS_TO_PASS, REPORT what `runner` wrote, OUTPUT what the tests printed. The reward is 1 exactly if every
named test passed, or failed as it is marked to (XFAIL), in a run that is whole and in which no sentinel passed. A name that the data set
cut at its first blank (an open bracket and no closing one) stands for every test whose name begins with it; ``cut_names`` counts them.
``forged`` counts the named tests that the output calls passed and the runner does not.
"""

import json
import re
import sys

GOOD = ("passed", "xfailed")


def judge(config, reports, output):
    """Numbers by name, ``reward`` first; None without a report. ``reports`` are the runner's, one for each of its starts."""
    if not reports:
        return None
    sound = all(report["whole"] and not report["sentinels_passed"] and not report["ended_early"] for report in reports)
    results = {}
    for report in reports:
        for name, outcome in report["results"]:
            results[name] = outcome if results.get(name, outcome) == outcome else "failed"
    wanted, kept = config["FAIL_TO_PASS"], config["PASS_TO_PASS"]
    good = sum(sound and passed(name, results) for name in wanted)
    still = sum(sound and passed(name, results) for name in kept)
    said = said_passed(output)
    return {
        "reward": int(good == len(wanted) and still == len(kept)),
        "fail_to_pass": good / len(wanted),
        "pass_to_pass": still / max(1, len(kept)),
        "cut_names": sum(is_cut(name) for name in wanted + kept),
        "forged": sum(name in said and not passed(name, results) for name in wanted + kept),
    }


def is_cut(name):
    return "[" in name and not name.endswith("]")


def passed(name, results):
    if name in results or not is_cut(name):
        return results.get(name) in GOOD
    found = [outcome for other, outcome in results.items() if other.startswith(name)]
    return bool(found) and all(outcome in GOOD for outcome in found)


def said_passed(output):
    """Names in the lines of a pytest -rA summary, colours taken out."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    return {line[len("PASSED ") :].strip() for line in plain.split("\n") if line.startswith("PASSED ")}


def main(config, report, output):
    with open(config) as file:
        config = json.load(file)
    try:
        with open(report) as file:
            reports = [json.loads(json.loads(line)["report"]) for line in file]
    except FileNotFoundError:
        reports = []
    with open(output, errors="replace") as file:
        rewards = judge(config, reports, file.read())
    if rewards is None:
        return "no test runner ran: no verdict"
    print(json.dumps(rewards))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
