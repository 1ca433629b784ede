"""Write the README's results from the committed reference reports, so that no figure in it is typed by hand."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- results -->.*<!-- /results -->", re.S)
TITLES = {
    "quick": "Three kinds of dark matter, simulated (`make study`)",
    "deeplense-equivariant": "DeepLense's official set for equivariant networks (`params/deeplense-equivariant.yml`)",
    "data-efficiency": "The same set, with ever fewer images to train on (`params/data-efficiency.yml`)",
}


def results(root: Path) -> str:
    """The results block: the quick study's figure and answer, and one table over all reference studies."""
    lines = ["<!-- results -->"]
    summaries = {name: root / "reports/reference" / name / "summary.json" for name in TITLES}
    summaries = {name: json.loads(file.read_text()) for name, file in summaries.items() if file.exists()}
    if "quick" in summaries:
        quick = summaries["quick"]
        lines += [f"![{quick['figure_alt']}](reports/reference/quick/headline.png)", "", f"*{quick['answer']}*", ""]
        lines += [f"What this leaves open: {quick['limitations']}", ""]
    for name, summary in summaries.items():
        lines += [f"**{TITLES[name]}**: [report](reports/reference/{name}/index.html)", ""]
        lines += [] if name == "quick" else [f"*{summary['answer']}*", ""]
        lines += ["| Network | Test images | AUC | Accuracy |", "|---|---|---|---|"]
        lines += [f"| {r['network']} | {r['test images']} | {r['AUC']} | {r['accuracy']} |" for r in summary["table"]]
        lines += [""]
    return "\n".join([*lines, "<!-- /results -->"])


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(BLOCK.sub(lambda _: results(ROOT), readme.read_text()))
