"""The page of metrics holds what the code has; the alerts and queries that we hand out are sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hearth.core.limits import METRICS_FUNCTIONS_MAX
from hearth.core.metrics import BOUNDS, EXPOSED, METRICS, OTHER, Metric
from tests.promtool import promtool

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/metrics.md").read_text()
HOWTO = (ROOT / "docs/howto/prometheus.md").read_text()
RULES = ROOT / "deploy/prometheus/hearth-alerts.yml"


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_every_metric_is_in_its_page_as_the_code_has_it(metric: Metric) -> None:
    labels = " ".join(f"`{label}`" for label in metric.labels)
    row = f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |"
    assert row.replace("|  |", "| |") in PAGE


def test_the_page_invents_nothing() -> None:
    assert set(re.findall(r"(?m)^\| `(hearth_\w+)`", PAGE)) == set(METRICS)
    assert f"first {METRICS_FUNCTIONS_MAX} functions" in PAGE and f"`{OTHER}`" in PAGE
    assert (BOUNDS[EXPOSED[0]], BOUNDS[EXPOSED[-1]]) == (0.00025, 500.0)
    assert "from 250 µs to 500 s" in PAGE


def known(name: str) -> bool:
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return name in METRICS or (base in METRICS and METRICS[base].kind == "histogram")


def test_queries_and_alerts_name_metrics_that_there_are() -> None:
    for text in (HOWTO, RULES.read_text(), PAGE):
        names = set(re.findall(r"hearth_\w+", text)) - {"hearth_"}
        assert names and [name for name in names if not known(name)] == []


def test_queries_use_labels_that_there_are() -> None:
    for name, selector in re.findall(r"(hearth_\w+)\{([^}]*)\}", HOWTO + RULES.read_text()):
        base = name if name in METRICS else re.sub(r"_(bucket|sum|count)$", "", name)
        used = set(re.findall(r"(\w+)=", selector))
        assert used <= {*METRICS[base].labels, "process", "instance"}, name


def test_the_scrape_configuration_is_sound() -> None:
    promtool("check", "config", str(ROOT / "deploy/prometheus/prometheus.yml"))


def test_the_alerts_are_sound_and_tell_what_they_are_for() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(Path(__file__).with_name("alerts_test.yml")))


def test_the_queries_are_sound(tmp_path: Path) -> None:
    queries = re.findall(r"(?m)^\| [^|]+ \| `(.+)` \|$", HOWTO)
    assert len(queries) == 7
    rules = "".join(
        f"      - record: asked:{n}\n        expr: {query!r}\n" for n, query in enumerate(queries)
    )
    (tmp_path / "rules.yml").write_text(f"groups:\n  - name: asked\n    rules:\n{rules}")
    promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_the_page_s_examples_of_a_scrape_are_sound(tmp_path: Path) -> None:
    blocks = re.findall(r"(?ms)^( *)```yaml\n(.*?)^ *```", HOWTO)
    assert len(blocks) == 2
    for number, (indent, block) in enumerate(blocks):
        text = "\n".join(line.removeprefix(indent) for line in block.splitlines())
        key = tmp_path / "key"
        key.write_text("hk_x")
        file = tmp_path / f"{number}.yml"
        file.write_text(text.replace("/etc/prometheus/hearth-key", str(key)) + "\n")
        promtool("check", "config", str(file))
