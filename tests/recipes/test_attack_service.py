"""`saat attack --service`: a search service, as a process of its own, attacked by nothing but the ids it returns."""

from __future__ import annotations

import io
import json
import shlex
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import saat
from saat.attacks.views import MAX_ID, returned_share
from saat.cli import COMMANDS, main
from saat.evaluation.report import reproduce
from saat.models.checkpoint import load_checkpoint
from saat.parsing import parse
from saat.recipes.outside import ServiceSearch
from saat.recipes.subject import load_subject
from saat.serving.client import ServiceError
from saat.serving.hits import Answer, Hit, Item, Risk
from service import Start

pytestmark = pytest.mark.usefixtures("no_pictures")
TOKEN = "a-token-of-enough-letters"
GOAL = ["--goal=returned-ids", "--search=square", "--steps=8", "--epsilon=32/255"]
SIZES = {"query": 20, "train": 120, "database": 150}  # of the splits of `served`


@pytest.fixture
def looks() -> Iterator[list[int]]:
    """How many images each pass of a network in this process has seen, folded or not."""
    seen: list[int] = []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            seen.append(len(inputs[0]))

    hook = register_module_forward_pre_hook(look)
    yield seen
    hook.remove()


def run(served: Any, out: Path, *more: str) -> int:
    return main(["attack", str(served.checkpoint), f"--out={out}", *GOAL, *more])


def asked(url: str, images: torch.Tensor, token: str | None = None) -> torch.Tensor:
    """The ids of the 60 items that the service returns for images, asked one by one."""
    ids = []
    with saat.Client(url, token) as client:
        for image in (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
            file = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
            ids.append([hit.id for hit in client.search(file.getvalue(), 100)])
    return torch.tensor(ids)


def test_a_running_service_is_attacked_by_its_ids_alone(
    served: Any,
    serve: Start,
    tmp_path: Path,
    looks: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(torch.autograd, "grad", None)  # whoever takes a gradient fails
    guard = f"--token_file={tmp_path / 'token'}"
    with serve(f"--index={served.index}", guard, "--rate=1") as server:  # 2 requests at once, then it says: later
        assert run(served, tmp_path / "out", f"--service={server.url}", guard) == 0
        told = capsys.readouterr().out
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        saved = load_file(tmp_path / "out" / "adversarial.safetensors")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        time.sleep(2)  # so that this one is let in
        sent = httpx.get(server.url + "/metrics", headers=headers).text
    attack = report["attack"]
    assert sum(looks) == sum(SIZES.values()) + SIZES["query"]  # clean codes, and those of what was found
    assert (attack["gradients"], attack["vanished_at_start"]) == (0, 0.0)
    assert attack["model_evaluations"] == 8 * SIZES["query"]
    assert attack["searches"] == (1 + 8 + 2) * SIZES["query"]  # the aim, the search, and both results at its end
    assert attack["requests"] == 1 + 8 + 2
    for line in (
        f"saat_batch_size_sum {attack['searches']:.1f}",
        f'saat_requests_total{{method="POST",route="/search/batch",status="200"}} {attack["requests"]:.1f}',
    ):
        assert line in sent
    assert 'method="POST",route="none",status="429"}' in sent
    assert attack["returned_share"] < 0.9
    assert f"{server.url} still returns {attack['returned_share']:.0%} of its results" in told

    images = saved["images"]
    clean = load_subject(served.checkpoint, None, None, device=torch.device("cpu"), quiet=True).splits.query.images
    levels = images * 255 - clean
    assert torch.equal(levels, levels.round())
    assert 0 < float(levels.abs().max()) <= 32
    model, _ = load_checkpoint(served.checkpoint)
    assert torch.equal(saved["codes"], model.encode(images))
    with serve(f"--index={served.index}", "--rate=0") as server:
        kept = returned_share(asked(server.url, clean / 255), asked(server.url, images))
    assert kept.mean().item() == pytest.approx(attack["returned_share"], abs=1e-6)
    assert bool((kept < 1).any())
    again = parse("attack", COMMANDS["attack"], shlex.split(reproduce(report))[2:])
    assert (again.service, again.goal) == (attack["service"], "returned-ids")


def test_the_command_of_the_docs_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("saat attack") and "--service" in line]
    config = parse("attack", COMMANDS["attack"], shlex.split(line)[2:])
    assert (config.service, config.goal) == ("http://127.0.0.1:8000", "returned-ids")


class Shown:
    """A service that returns what it is told, and keeps what it was sent."""

    def __init__(self, *ids: list[int]) -> None:
        self.ids, self.files = list(ids), list[bytes]()

    def answers(self, files: list[bytes], k: int) -> list[Answer]:
        assert k == 100
        self.files += files
        return [Answer([Hit(number, 0, (), "", {}) for number in self.ids.pop(0)]) for _ in files]


class Crowded(Shown):
    """One with room for so many searches, beside those of others."""

    def __init__(self, room: int, *ids: list[int]) -> None:
        super().__init__(*ids)
        self.room = room

    def answers(self, files: list[bytes], k: int) -> list[Answer]:
        if len(files) > self.room:
            raise ServiceError("too many requests are underway; come again", status=503, retry_after=0.0)
        return super().answers(files, k)


def test_a_service_with_little_room_gets_few_images_at_a_time() -> None:
    search = ServiceSearch(Crowded(8, *[[7]] * 40), "", quiet=True)  # type: ignore[arg-type]
    assert search(torch.zeros(20, 3, 8, 8)).shape == (20, 100)
    assert (search.requests, search.searches) == (3, 20)  # halves until 8 are in a request
    assert search(torch.zeros(20, 3, 8, 8)).shape == (20, 100)
    assert (search.requests, search.searches) == (6, 40)  # which is remembered
    search.close()


def test_ids_of_63_bits_are_numbered_as_they_are_met() -> None:
    search = ServiceSearch(Shown([2**62, 7], [2**62 + 1], [7, MAX_ID + 1]), "", quiet=True)  # type: ignore[arg-type]
    ids = torch.cat([search(torch.zeros(2, 3, 8, 8)), search(torch.zeros(1, 3, 8, 8))])
    search.close()
    assert ids.shape == (3, 100)
    assert ids[:, :2].tolist() == [[0, 1], [2, -1], [1, 3]]
    assert bool((ids[:, 2:] == -1).all())


def test_a_border_that_the_service_cuts_off_leaves_the_image_as_it_was() -> None:
    from saat.data.decoding import open_image, resize_image

    shown = Shown([0])
    search = ServiceSearch(shown, "", crop_border=3, quiet=True)  # type: ignore[arg-type]
    image = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    search(image / 255)
    search.close()
    with open_image(shown.files[0]) as sent:
        seen = np.asarray(resize_image(sent, size=8, crop_border=3))
    assert np.array_equal(seen, image[0].permute(1, 2, 0).numpy())


@contextmanager
def other_program(says: bytes = b"<html>hello</html>") -> Iterator[str]:
    """A web server that is none of ours, and says one thing to everything."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(says)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_service_that_is_not_there_or_is_something_else(
    served: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert run(served, tmp_path, f"--service={nobody}") == 2
    assert f"`service` is a running `saat serve`; {nobody}: no answer from {nobody}" in capsys.readouterr().err
    with other_program() as url:
        assert run(served, tmp_path, f"--service={url}") == 2
        assert f"`service` is a running `saat serve`; {url}: 200: not an answer" in capsys.readouterr().err
        with saat.Client(url) as client, pytest.raises(ServiceError, match="200: not an answer of `saat serve`"):
            client.item(1)
    with other_program(b'{"answers": [1], "hits": 2}') as url, saat.Client(url) as client:
        image = b"an image"
        for ask in (
            lambda: client.answers([image]),
            lambda: client.answer(image),
            lambda: client.add(image),
            client.about,
        ):
            with pytest.raises(ServiceError, match=r"^not an answer of `saat serve`$"):
                ask()


def test_what_a_later_service_tells_beside_is_passed_over() -> None:
    item = {"id": 3, "name": "a.png", "metadata": {}, "views": 9}
    risk = {**vars(Risk.of(0.1, 0.9)), "detectors": 2}
    hit = {**item, "distance": 2, "bits": [4, 7]}
    says = {"hits": [hit], "risk": risk, "within": None, "seconds": 0.1, **item}
    with other_program(json.dumps(says).encode()) as url, saat.Client(url) as client:
        assert client.item(3) == Item(3, "a.png", {})
        found = client.answer(b"an image")
        assert (found.hits, found.risk) == ([Hit(3, 2, (4, 7), "a.png", {})], Risk.of(0.1, 0.9))


def test_a_wrong_token_and_another_model_are_named(
    served: Any, serve: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("token", TOKEN), ("wrong", TOKEN + "x")):
        (tmp_path / name).write_text(text)
    with serve(f"--index={served.index}", f"--token_file={tmp_path / 'token'}") as server:
        for more in ([], [f"--token_file={tmp_path / 'wrong'}"]):
            assert run(served, tmp_path / "out", f"--service={server.url}", *more) == 2
            told = capsys.readouterr().err
            assert f"`token_file` holds the token of `service` {server.url}, which refused: 401: this service" in told
            assert TOKEN not in told
        token = f"--token_file={tmp_path / 'token'}"
        assert run(served, tmp_path / "out", f"--service={server.url}", token, "--data.image_size=24") == 2
        wanted = f"`service` has the model that is measured, with image_size 24; {server.url} has 32"
        assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--goal=own-code"], "`service` shows nothing but ids, and needs `goal` returned-ids; got own-code"),
        (["--purifier=jpeg"], "`service` goes without `purifier`; got jpeg"),
        (["--search=nes", "--patch=0.1"], "`service` goes without `patch`; got 0.1"),
        (["--epsilon=0.5/255"], "`epsilon` in linf is at least 1/255 with a `service`, which sees 8 bits; got 0.00196"),
        (["--service=null", "--token_file=x"], "`token_file` holds the token of a `service`; got no service with x"),
        (["--service=localhost:8000"], "`service` is an address such as http://127.0.0.1:8000, without a login; got"),
        (["--service=http://me:secret@a"], "without a login; got 'a'"),
        (["--service=http://a:port"], "`service` is an address such as"),
    ],
)
def test_what_does_not_go_with_a_service(more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack", "x", "--out=y", *GOAL, "--service=http://127.0.0.1:1", *more]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "secret" not in told
