#!/usr/bin/env python3
"""Whether the documents agree with each other.

- Links and anchors in README.md, CONTRIBUTING.md, docs/*.md and docs/deploy/*.md lead somewhere.
- docs/grafana.json is a dashboard, and its queries name only metrics and labels that docs/METRICS.md documents.
- The other documents and the files in docs/deploy name only documented metrics.
- docs/deploy/*.yaml are YAML, and leave a process the time that its configuration gives it.

Needs Python alone; without PyYAML the YAML files are not parsed, and that is said. Exits with 1 and a list of findings.
"""

import json
import pathlib
import re
import sys
import urllib.parse

try:
    import yaml
except ImportError:
    yaml = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FINDINGS = []
# Labels that Prometheus or the histogram itself adds.
COMMON_LABELS = {"le", "job", "instance", "namespace", "pod"}


def find(path, text):
    FINDINGS.append(f"{path.relative_to(ROOT)}: {text}")


# Links


def without_code(text):
    """A document without fenced blocks, indented blocks and code within lines."""
    text = re.sub(r"^(\s*)(```|~~~).*?^\s*\2\s*$", "", text, flags=re.M | re.S)
    text = re.sub(r"(?:\A|(?<=\n\n))(?:(?: {4}|\t).*\n|\n)+", "\n", text)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", lambda m: "`" * len(m.group(0)), text, flags=re.S)


def anchors(path):
    """The anchors that a document offers, as GitHub makes them of its headings."""
    text = re.sub(r"^(\s*)(```|~~~).*?^\s*\2\s*$", "", path.read_text(), flags=re.M | re.S)
    found, seen = set(re.findall(r'<a (?:id|name)="([^"]+)"', text)), {}
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)?\s*$", text, flags=re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        count = seen.get(slug, 0)
        seen[slug] = count + 1
        found.add(slug if count == 0 else f"{slug}-{count}")
    return found


def check_links(path):
    text = without_code(path.read_text())
    targets = re.findall(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", text)
    targets += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.M)
    for target in targets:
        if re.match(r"[a-z][a-z0-9+.-]*:", target) or target.startswith("//"):
            continue
        name, _, anchor = target.partition("#")
        goal = path if not name else (path.parent / urllib.parse.unquote(name)).resolve()
        if not goal.exists():
            find(path, f"links to {target}, which is not there")
        elif ROOT not in goal.parents and goal != ROOT:
            find(path, f"links to {target}, which is outside the repository")
        elif anchor and goal.suffix == ".md" and urllib.parse.unquote(anchor) not in anchors(goal):
            find(path, f"links to {target}, which has no such heading")
    return len(targets)


# Metrics


def documented_metrics():
    """Name -> (type, labels), from the tables of METRICS.md."""
    metrics = {}
    for line in (DOCS / "METRICS.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        match = re.fullmatch(r"`((?:headfirst|process)_\w+)`", cells[0])
        if line.startswith("|") and match and len(cells) >= 4:
            metrics[match.group(1)] = (cells[1], set(re.findall(r"`(\w+)`", cells[2])))
    return metrics


def check_query(path, where, query, metrics):
    """The names of metrics and labels in a query, and that its brackets and quotes close."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    for opening, closing in ("()", "[]", "{}"):
        if bare.count(opening) != bare.count(closing):
            find(path, f"{where}: {opening} and {closing} do not match: {query}")
    if not query.strip():
        find(path, f"{where}: an empty query")
    for name, selector in re.findall(r"\b((?:headfirst|process)_\w+)\s*(?:\{([^}]*)\})?", bare):
        base, suffix = name, ""
        if name not in metrics:
            base, _, suffix = name.rpartition("_")
        kind, labels = metrics.get(base, (None, set()))
        if kind is None or (suffix and (kind != "histogram" or suffix not in ("bucket", "sum", "count"))):
            find(path, f"{where}: {name} is not in docs/METRICS.md")
            continue
        if kind == "histogram" and not suffix:
            find(path, f"{where}: {name} is a histogram, which has _bucket, _sum and _count")
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            if label not in labels | COMMON_LABELS:
                find(path, f"{where}: {name} has no label {label}")
    known = set().union(COMMON_LABELS, *(labels for _, labels in metrics.values()))
    for names in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", bare):
        for label in re.findall(r"\w+", names):
            if label not in known:
                find(path, f"{where}: no metric has the label {label}")


def check_names(path, metrics):
    """Metrics that a text names, as a whole name."""
    for name in sorted(set(re.findall(r"\bheadfirst_[a-z_]+[a-z]\b(?!\*)", path.read_text()))):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if name not in metrics and base not in metrics:
            find(path, f"{name} is not in docs/METRICS.md")


def check_dashboard(path, metrics):
    try:
        dashboard = json.loads(path.read_text())
    except ValueError as error:
        find(path, f"is not JSON: {error}")
        return 0
    inputs = {entry.get("name") for entry in dashboard.get("__inputs", [])}
    for key in ("title", "uid", "panels", "schemaVersion", "templating", "time"):
        if key not in dashboard:
            find(path, f"has no {key}")
    variables = {entry["name"] for entry in dashboard.get("templating", {}).get("list", [])}
    queries, ids, titles = [], set(), set()
    for panel in dashboard.get("panels", []):
        title = f"panel \"{panel.get('title', '')}\""
        if panel.get("id") in ids:
            find(path, f"{title}: its id {panel.get('id')} is taken")
        ids.add(panel.get("id"))
        titles.add(panel.get("title"))
        if panel.get("type") != "row" and not panel.get("targets"):
            find(path, f"{title}: asks nothing")
        queries += [(title, target.get("expr", "")) for target in panel.get("targets", [])]
    queries += [
        (f"annotation \"{entry.get('name')}\"", entry["expr"])
        for entry in dashboard.get("annotations", {}).get("list", [])
        if "expr" in entry
    ]
    for entry in dashboard.get("templating", {}).get("list", []):
        match = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", entry.get("definition", ""))
        if match:
            queries.append((f"variable {entry['name']}", f"max by ({match.group(2)}) ({match.group(1)})"))
    for where, query in queries:
        check_query(path, where, query, metrics)
        for name in re.findall(r"\$\{?(\w+)", query):
            if name not in variables and not name.startswith("__"):
                find(path, f"{where}: there is no variable ${name}")
    for name in set(re.findall(r'"uid": "\$\{(\w+)\}"', path.read_text())) - inputs:
        find(path, f"{name} is not among its __inputs")
    return len(queries)


# Deployment


def seconds(text):
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d)?", text)
    return int(match.group(1)) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}[match.group(2)]


def check_deployment(path, metrics):
    text = path.read_text()
    check_names(path, metrics)
    if path.suffix != ".yaml" or yaml is None:
        return
    try:
        documents = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        find(path, f"is not YAML: {error}")
        return
    configurations = [document.get("data", {}).get("proxy.conf") for document in documents]
    for configuration in filter(None, configurations):
        bare = re.sub(r"(^|\s)#.*", "", configuration)
        timers = {"drain_delay": "5s", "shutdown_grace": "25s"}
        timers.update(re.findall(r"\b(drain_delay|shutdown_grace)\s+(\w+);", bare))
        needed = sum(map(seconds, timers.values()))
        for document in documents:
            if document.get("kind") == "Deployment":
                given = document["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
                if given <= needed:
                    find(path, f"terminationGracePeriodSeconds is {given}, and the configuration may take {needed:g}")


def main():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("deploy/*.md"))]
    links = sum(check_links(path) for path in documents)
    metrics = documented_metrics()
    if not metrics:
        find(DOCS / "METRICS.md", "documents no metric; its tables could not be read")
    queries = check_dashboard(DOCS / "grafana.json", metrics)
    for path in documents:
        if path.name != "METRICS.md" and path.parent == DOCS:
            check_names(path, metrics)
    deployment = [path for path in sorted((DOCS / "deploy").iterdir()) if path.is_file()]
    for path in deployment:
        check_deployment(path, metrics)
    if yaml is None:
        print("skipped: PyYAML is missing, so that docs/deploy/*.yaml were not parsed")
    for finding in FINDINGS:
        print(finding)
    print(
        f"documents: {len(documents)} with {links} links, {queries} queries, {len(deployment)} files to deploy: "
        + (f"{len(FINDINGS)} findings" if FINDINGS else "all agree")
    )
    return 1 if FINDINGS else 0


if __name__ == "__main__":
    sys.exit(main())
