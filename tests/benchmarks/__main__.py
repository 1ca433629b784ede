"""`make bench`: every benchmark, side by side with its baseline in one run, as a table and in `runs/bench.json`.

`ratio` above 1 is better than the baseline. A benchmark that lacks its data or package says so in place of its figure.
"""

import importlib
import json
import sys

from lensstudy.study import home

GROUPS = ("simulate", "networks", "data", "training", "deployment", "scale")


def shown(value, unit="") -> str:
    return "-" if value is None else f"{value:,.3g} {unit}".strip() if isinstance(value, int | float) else str(value)


records = []
for group in sys.argv[1:] or GROUPS:
    print(f"measuring {group} ...", file=sys.stderr, flush=True)
    records += importlib.import_module(f"tests.benchmarks.{group}").run()

print(f"\n{'name':34} {'value':>20} {'baseline':>44} {'ratio':>7} {'spread':>8}")
for record in records:
    baseline = f"{record.get('baseline', '')} {shown(record.get('baseline_value'), record.get('unit', ''))}"
    print(
        f"{record['name']:34} {shown(record.get('value'), record.get('unit', '')):>20} {baseline:>44} "
        f"{shown(record.get('ratio')):>7} {shown(record.get('spread')):>8}"
    )

file = home() / "runs" / "bench.json"
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(json.dumps(records, indent=1))
print(f"\n{file.relative_to(home())}")
