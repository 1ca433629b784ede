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
BLOCK = re.compile(r"<!-- results -->.*<!-- /results -->", re.S)


def leading(reference: Path) -> Path:
    """The folder of the study that leads: the first of the list that has a picture."""
    named = [reference / name for question in questions(reference) for name in question.studies]
    return next(folder for folder in named if (folder / "front.png").exists())


def results(root: Path) -> str:
    """The results block: picture, answer in plain words, the task, and where the numbers are."""
    folder = leading(root / "reports/reference")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    with Image.open(folder / "front.png") as picture:
        words = picture.info["Description"]
    place = f"reports/reference/{folder.name}"
    lines = [
        "<!-- results -->",
        f"[![{words}]({place}/front.png)]({place}/index.html)",
        "",
        f"**{in_plain_words(summary)}**",
        "",
        f"{summary.get('task', '')} [The answer in numbers]({place}/index.html), and "
        f"[what it leaves open]({place}/index.html#limitations).".lstrip(),
        "<!-- /results -->",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(BLOCK.sub(lambda _: results(ROOT), text), encoding="utf-8")
