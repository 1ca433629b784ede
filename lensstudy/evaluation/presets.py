"""What a network learnt about its simulator, and what about dark matter: trained on one preset, tested on another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.robustness import transfer_matrix
from lensstudy.evaluation.scores import averaged_over, counted

__all__ = ["ALL", "OTHERS", "AcrossPresets"]

LIMITATIONS = (
    "The presets come from one package, and are more like each other than like real observations; a few "
    "of them are not a representative sample."
)
OTHERS, ALL = "the others", "all"  # rows of a table beside the presets: trained on every other one, on all together


class AcrossPresets:
    """AUC of networks trained on one preset, on all others and on all together, and tested on each.

    Args:
        alone: trained networks of each preset by the name of the network, one list of seeds each.
        without: the same, trained on every preset but that one.
        together: trained on all of them.
        tests: the test part of each preset.
        images: training images of each training.
    """

    def __init__(
        self,
        alone: Mapping[str, Mapping[str, Sequence]],
        without: Mapping[str, Mapping[str, Sequence]],
        together: Mapping[str, Sequence],
        tests: Mapping[str, LensDataset],
        images: int,
    ):
        self.networks, self.presets = list(together), list(tests)
        self.seeds, self.images = len(together[self.networks[0]]), images
        self.tables = {}
        for name in self.networks:
            home = transfer_matrix({preset: list(alone[preset][name]) for preset in tests}, dict(tests))
            others = [
                transfer_matrix({OTHERS: list(without[preset][name])}, {preset: test}) for preset, test in tests.items()
            ]
            mixed = transfer_matrix({ALL: list(together[name])}, dict(tests))
            self.tables[name] = pd.concat([home, *others, mixed], ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """Mean AUC over presets of each `network`: at home, away after one preset, away after all others, mixed."""
        return pd.DataFrame(
            {
                "network": name,
                "at home": table[table["trained"] == table["tested"]]["auc"].mean(),
                "away, one preset": _away(table, self.presets)["auc"].mean(),
                "away, all others": table[table["trained"] == OTHERS]["auc"].mean(),
                "all together": table[table["trained"] == ALL]["auc"].mean(),
            }
            for name, table in self.tables.items()
        )

    def caption(self, network: str) -> str:
        """What stands below the figure of a network."""
        return (
            f"AUC of {network}, mean over classes and {counted(self.seeds, 'seed')}, with its 95 % interval over "
            f"{averaged_over(self.seeds)}. Chance is 0.5."
        )

    @property
    def answer(self) -> str:
        """What the numbers say, for the top of the report."""
        sentences = [
            f"{row['network']}: {row['at home']:.3f} at home; on presets it has not seen {row['away, one preset']:.3f} "
            f"after training on one and {row['away, all others']:.3f} after training on all the others; "
            f"{row['all together']:.3f} with every preset in the mixture."
            for _, row in self.summary().iterrows()
        ]
        return f"Each trained on {self.images:,} images, mean AUC over presets. {' '.join(sentences)}"

    def save(self, folder: str | Path) -> Path:
        """Write `transfer.csv`, and `summary.json` with the answer and the names that the list of reports reads; the
        figure of the first network stands beside them as `headline.png`."""
        folder, first = Path(folder), self.networks[0]
        folder.mkdir(parents=True, exist_ok=True)
        every = pd.concat(self.tables, names=["network"]).reset_index(level=0)
        every.to_csv(folder / "transfer.csv", index=False)
        summary = {
            "answer": self.answer,
            "figure": "headline.png",
            "figure_alt": f"What {first} was trained on and tested on, as a table of AUC.",
            "figure_caption": self.caption(first),
            "table": json.loads(self.summary().round(4).to_json(orient="records")),
            "limitations": LIMITATIONS,
        }
        file = folder / "summary.json"
        file.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        return file


def _away(table: pd.DataFrame, presets: Sequence[str]) -> pd.DataFrame:
    return table[table["trained"].isin(presets) & (table["trained"] != table["tested"])]
