"""An audit as JUnit XML, which GitLab, Jenkins, Azure and most others show as test results."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ceag_cli.findings import (
    FAIL,
    INCONCLUSIVE,
    NO_DATA,
    REFERENCE,
    WAIVED,
    AuditResult,
    Check,
    GroupResult,
)
from ceag_cli.inert import printable
from ceag_cli.report import (
    audit_headline,
    check_line,
    interval,
    points,
    quantity,
    tolerance,
    why,
    worst_checks,
)
from ceag_cli.results import Audit

_NUMBERS = (
    *(
        "n",
        "n_effective",
        "lost",
        "gained",
        "acc_dense",
        "acc_sparse",
        "gap",
        "excess_gap",
        "gap_vs_rest",
        "eps",
    ),
    *("lower", "upper", "p_fail", "p_fail_holm", "n_needed"),
)


def junit(audit: Audit) -> str:
    """One suite per gated split and feature with a case per group, one for the rest.

    The case ``verdict`` fails whenever the exit code is not 0, so that the report is red exactly
    when the job is. Splits that are described only have no verdicts and are left out.
    """
    result = audit.result
    root = Element("testsuites", name="ceag audit")
    overall = SubElement(root, "testsuite", name="audit")
    case = SubElement(overall, "testcase", classname="audit", name="verdict")
    text = "\n".join(map(printable, [audit_headline(result), *result.reasons, *result.warnings]))
    if result.exit_code:
        failure = SubElement(
            case, "failure", message=printable(audit_headline(result)), type=result.verdict
        )
        failure.text = text
    else:
        SubElement(case, "system-out").text = text
    for check in worst_checks(result):
        _add_check(overall, check, result)
    suites: dict[tuple[str, str], Element] = {}
    for split in result.splits:
        for group in result.by_split(split.split) if split.gated else ():
            key = (group.split, group.feature)
            if key not in suites:
                name = printable(f"{group.split}: {group.feature}")
                suites[key] = SubElement(root, "testsuite", name=name)
            _add_group(suites[key], group, result)
    for suite in root:
        _count(suite)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add_group(suite: Element, group: GroupResult, result: AuditResult) -> None:
    policy = result.policy
    case = SubElement(
        suite, "testcase", classname=printable(group.feature), name=printable(group.value)
    )
    properties = SubElement(case, "properties")
    for name in ("split", "verdict", "reason", *_NUMBERS):
        value = getattr(group, name)
        if value is not None:
            SubElement(properties, "property", name=name, value=printable(str(value)))
    reason = why(group, result)
    message = f"{group.verdict}{f': {reason}' if reason else ''}"
    must = result.exit_code and (policy.gate == "strict" or group.required)
    lacking = (INCONCLUSIVE, NO_DATA, *([REFERENCE] if group.required else []))
    if group.verdict == FAIL or (must and group.verdict in lacking):
        failure = SubElement(case, "failure", message=printable(message), type=group.verdict)
        failure.text = printable(
            f"{quantity(policy)} is {points(result.gated_gap(group), group.eps)} points "
            f"({interval(group)}), eps {tolerance(group.eps)}, {group.n} images"
        )
    elif group.verdict in (INCONCLUSIVE, NO_DATA, WAIVED):
        SubElement(case, "skipped", message=printable(message))


def _add_check(suite: Element, check: Check, result: AuditResult) -> None:
    name = f"{check.split}: {check.name}" + (f" of {check.group}" if check.group else "")
    case = SubElement(suite, "testcase", classname="audit", name=printable(name))
    properties = SubElement(case, "properties")
    for name in ("value", "lower", "upper", "limit"):
        SubElement(properties, "property", name=name, value=str(getattr(check, name)))
    text = printable(check_line(check))
    strict = result.gate == "strict" and result.exit_code
    if check.verdict == FAIL or (check.verdict == INCONCLUSIVE and strict):
        SubElement(case, "failure", message=text, type=check.verdict)
    elif check.verdict == INCONCLUSIVE:
        SubElement(case, "skipped", message=text)


def _count(suite: Element) -> None:
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
