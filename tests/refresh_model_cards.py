"""Write the README.md of every network that comes with the package again, from its card.json."""

from lensstudy.deployment import model_card
from lensstudy.deployment.pretraining import cards
from lensstudy.networks.names import PRETRAINED

if __name__ == "__main__":
    for name, card in cards().items():
        (PRETRAINED / name / model_card.README).write_text(model_card.model_card(card), encoding="utf-8")
