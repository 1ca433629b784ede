"""Write the README's result from a committed reference report, so that no figure in it is typed by hand.

It is that of the study which leads the list of studies: the first that `reports/reference/studies.yml` names and that
has a picture, which `lensstudy report NAME --reference` draws.
"""

import json
import re
from pathlib import Path

from PIL import Image

from lensstudy.report.listing import questions
from lensstudy.report.summaries import in_plain_words

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- (results|task) -->.*?<!-- /\1 -->", re.S)


def leading(reference: Path) -> Path:
    """The folder of the study that leads: the first of the list that has a picture."""
    named = [reference / name for question in questions(reference) for name in question.studies]
    return next(folder for folder in named if (folder / "front.png").exists())


def blocks(root: Path) -> dict[str, str]:
    """The two blocks of the README that are quoted: the picture with the answer in plain words, and the task."""
    folder = leading(root / "reports/reference")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    with Image.open(folder / "front.png") as picture:
        words = picture.info["Description"]
    place = f"reports/reference/{folder.name}"
    said = {
        "results": f"[![{words}]({place}/front.png)](reports/reference/README.md)\n\n**{in_plain_words(summary)}**",
        "task": summary["task"],
    }
    return {name: f"<!-- {name} -->\n{text}\n<!-- /{name} -->" for name, text in said.items()}


if __name__ == "__main__":
    readme, now = ROOT / "README.md", blocks(ROOT)
    text = readme.read_text(encoding="utf-8")
    readme.write_text(BLOCK.sub(lambda found: now[found[1]], text), encoding="utf-8")
