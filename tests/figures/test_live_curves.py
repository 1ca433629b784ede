"""The live curves of a training in a running kernel, whose button is clicked while it trains."""

import time

import pytest
from jupyter_client.manager import start_new_kernel

TRAINING = """
from lensstudy import Study, load_run, simulate
from lensstudy.figures import widgets

images = simulate("model_1", 20, seed=1, image_size=16).split(0.2, 0.4, seed=1)
study = Study(network="plain-cnn", width=0.25, epochs=3000, batch_size=8)
run = load_run(await widgets.train(images, study, folder="run"))
"""
TOLD = """
best = run.history.loc[run.history["validation_loss"].idxmin(), "epoch"]
print(len(run.history), run.metrics["epochs"], best == run.metrics["best_epoch"])
"""


@pytest.fixture
def client(root, tmp_path, monkeypatch):
    monkeypatch.delenv("LENSSTUDY_BATCH", raising=False)
    manager, client = start_new_kernel(cwd=str(tmp_path))
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_the_button_stops_the_training_and_the_best_is_kept(client):
    client.execute(TRAINING)
    models, pictures = {}, []
    while len(pictures) < 3:  # three epochs have been drawn
        message = client.get_iopub_msg(timeout=100)
        assert message["msg_type"] != "error", "".join(message["content"]["traceback"])
        content = message["content"]
        if message["msg_type"] == "comm_open":
            models[content["data"]["state"].get("_model_name")] = content["comm_id"]
        if message["msg_type"] == "comm_msg" and content["comm_id"] == models.get("ImageModel"):
            pictures += [bytes(one) for one in message["buffers"]]
    assert all(one.startswith(b"\x89PNG") for one in pictures) and pictures[0] != pictures[2]
    click = {"method": "custom", "content": {"event": "click"}}
    client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": models["ButtonModel"], "data": click}))
    end = time.monotonic() + 60
    while (reply := client.get_shell_msg(timeout=max(end - time.monotonic(), 1)))["msg_type"] != "execute_reply":
        pass
    assert reply["content"]["status"] == "ok", reply["content"]
    told = []
    client.execute_interactive(TOLD, output_hook=lambda m: told.append(m["content"].get("text", "")), timeout=60)
    shown, kept, best = "".join(told).split()
    assert 3 <= int(shown) == int(kept) < 3000 and best == "True"
