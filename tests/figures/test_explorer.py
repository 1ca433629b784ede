"""The explorer of 08, moved as a front end moves it: by messages to its widgets in a running kernel, no browser."""

import base64
import io
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.util import run_sync
from PIL import Image

pytestmark = pytest.mark.slow  # a kernel runs 08 for it


class Explorer:
    """The widgets of a notebook in a running kernel; `shown` is what a front end would show of each, by its name."""

    def __init__(self, client: NotebookClient):
        self.client, self.names, self.shown = client, {}, {}
        for comm, state in client.widget_state.items():
            name = state.get("description") or {"ImageModel": "canvas", "HTMLModel": "bars"}.get(state["_model_name"])
            if name:
                self.names[comm], self.shown[name] = name, state
        for comm, buffers in client.widget_buffers.items():
            self.shown[self.names[comm]] |= {path[0]: base64.b64decode(b["data"]) for path, b in buffers.items()}

    def move(self, name: str, **state) -> None:
        """What a front end sends when a control is moved, and all that the kernel says until it rests."""
        comm = next(comm for comm, known in self.names.items() if known == name)
        data = {"method": "update", "state": state, "buffer_paths": []}
        message = self.client.kc.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.kc.shell_channel.send(message)
        while True:
            answer = run_sync(self.client.kc.get_iopub_msg)(timeout=60)
            content = answer["content"]
            if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            if content.get("execution_state") == "idle":
                return
            if answer["msg_type"] == "comm_msg" and content["data"]["method"] == "update":
                shown, data = self.shown[self.names[content["comm_id"]]], content["data"]
                shown |= data["state"]
                shown |= {path[0]: bytes(b) for path, b in zip(data["buffer_paths"], answer["buffers"], strict=True)}

    def picture(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.shown["canvas"]["value"])))

    def answer(self) -> tuple[dict[str, float], float]:
        """Probability of each class, and ood_score."""
        text = self.shown["bars"]["value"]
        probabilities = {name: float(p) for name, p in re.findall(r"(\w+) <meter value='([\d.]+)'", text)}
        return probabilities, float(re.search(r"OOD score ([\d.]+)", text)[1])


@pytest.fixture(scope="module")
def explorer(root, tmp_path_factory):
    """08 with few images and one network, run as far as its explorer, the kernel still alive."""
    home = tmp_path_factory.mktemp("home")
    notebook = nbformat.read(root / "notebooks" / "08-apply.ipynb", as_version=4)
    last = next(i for i, cell in enumerate(notebook.cells) if "interactive" in cell.metadata.get("tags", ()))
    first = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    change = nbformat.v4.new_code_cell(
        'networks, epochs, more = ["d4-steerable-cnn"], 4, {"images_per_class": 60, "width": 0.5}'
    )
    notebook.cells = [*notebook.cells[: first + 1], change, *notebook.cells[first + 1 : last + 1]]
    client = NotebookClient(notebook, kernel_name="python3", timeout=300)
    client.reset_execution_trackers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_BATCH", "1")
        patch.setenv("LENSSTUDY_HOME", str(home))
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            yield Explorer(client), pd.read_csv(home / "runs" / "smoke" / "application" / "predictions.csv")


def test_it_begins_with_the_answer_of_the_table(explorer):
    shown, table = explorer
    probabilities, ood_score = shown.answer()
    name = shown.shown["image"]["_options_labels"][0]
    (row,) = table[table["file"].str.endswith(name.rsplit(" ", 1)[0])].to_dict("records")
    assert probabilities == pytest.approx({name: row[name] for name in probabilities}, abs=6e-4)
    assert ood_score == pytest.approx(row["ood_score"], abs=6e-3)


def test_every_control_moves_picture_and_answer(explorer):
    shown, _ = explorer
    picture, (probabilities, ood_score) = shown.picture(), shown.answer()
    shown.move("rotation [°]", value=90.0)
    assert np.abs(shown.picture().astype(int) - picture).max() > 50
    assert shown.answer()[0] == pytest.approx(probabilities, abs=2e-3), "a D4 network does not mind"
    shown.move("rotation [°]", value=0.0)
    np.testing.assert_array_equal(shown.picture(), picture)
    shown.move("noise/peak", value=0.5)
    assert shown.answer()[1] > max(1, ood_score) and "no class is named" in shown.shown["bars"]["value"]
    shown.move("noise/peak", value=0.0)
    shown.move("image", index=1)
    assert np.abs(shown.picture().astype(int) - picture).max() > 50
    shown.move("image", index=0)
    np.testing.assert_array_equal(shown.picture(), picture)
    assert shown.answer() == (probabilities, ood_score)
