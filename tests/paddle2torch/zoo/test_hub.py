"""The Hub on loopback, in the library's own words: models go up, come down pinned, and what goes wrong is said."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import onnx_writer
import pytest
import torch
import yaml
from click.testing import CliRunner
from huggingface_hub import constants
from loopback import Handler, Server, running
from material import ROOT
from safetensors.torch import save_file
from small_models import classifier_config, saved, small_config, write_pdparams

from paddle2torch import load_pretrained
from paddle2torch.cache import zoo_dir
from paddle2torch.cli import main
from paddle2torch.converters.layout import layout_table, to_paddle
from paddle2torch.converters.paddle_files.files import sha256_of
from paddle2torch.exporting.transformers import processor_config, transformers_config, transformers_state
from paddle2torch.model_zoo.cards import HubSource, Sources, load_card
from paddle2torch.model_zoo.config import Origin
from paddle2torch.model_zoo.errors import ConfigError, FileFormatError, Paddle2TorchError, SourceError
from paddle2torch.model_zoo.names import is_hub_id
from paddle2torch.model_zoo.network import Network, build_model
from paddle2torch.zoo import hub_access, repositories, sources
from paddle2torch.zoo.conversion import convert
from paddle2torch.zoo.folder import save_model
from paddle2torch.zoo.hosts import UnreachableError
from paddle2torch.zoo.hub import push
from paddle2torch.zoo.hub_card import hub_card
from paddle2torch.zoo.hub_weights import HubAddress, hub_address
from paddle2torch.zoo.published import without_folders
from paddle2torch.zoo.sources import obtain

TOKEN = "hf_atesttoken"


class HubServer(Server):
    """A Hub: repositories with branches of commits of files; large files go up and come down by their sha256."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = HubHandler
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: set[str] = set()
        self.needs_token = False
        self.store: dict[str, bytes] = {}
        self.busy = 0  # answers of 429 before the next real one
        self.cuts = 0  # downloads that end in the middle
        self.replaced: dict[str, bytes] = {}  # by file name: what is served in its place
        self.calls: list[str] = []

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put files on top of a branch; returns the commit's hash."""
        parent = self.branches.setdefault(repo, {}).get(branch, "")
        whole = {**self.commits.get(parent, {}), **files}
        names = json.dumps([parent, {name: hashlib.sha256(data).hexdigest() for name, data in whole.items()}])
        digest = hashlib.sha1(names.encode()).hexdigest()
        self.commits[digest] = whole
        self.branches[repo][branch] = digest
        return digest

    def resolve(self, repo: str, revision: str) -> str | None:
        found = self.branches.get(repo, {}).get(revision)
        return found or (revision if revision in self.commits else None)


class HubHandler(Handler):
    """The paths of the Hub's API that `huggingface_hub` uses for models."""

    server: HubServer

    def do_POST(self) -> None:  # noqa: N802 - http.server finds it by this name
        self.route("POST")

    def do_PUT(self) -> None:  # noqa: N802 - http.server finds it by this name
        self.route("PUT")

    def do_GET(self) -> None:  # noqa: N802 - http.server finds it by this name
        self.route("GET")

    def do_HEAD(self) -> None:  # noqa: N802 - http.server finds it by this name
        self.route("HEAD")

    def route(self, method: str) -> None:
        hub_, length = self.server, int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        hub_.calls.append(f"{method} {path}")
        if path == "/":
            return self.answer(200, b"")
        if hub_.busy:
            hub_.busy -= 1
            return self.answer(429, b"{}", {"Retry-After": "0"})
        if path.startswith("/lfs-store/"):
            hub_.store[path.rsplit("/", 1)[1]] = body
            return self.answer(200, b"")
        if hub_.needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        if method == "POST" and path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            metadata = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            assert metadata["license"]
            return self.answer_json({"errors": [], "warnings": []})
        parts = path.strip("/").split("/")
        if "resolve" in parts:
            return self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), method == "GET")
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        return self.api(parts, body)

    def api(self, parts: list[str], body: bytes) -> None:
        hub_, repo = self.server, "/".join(parts[2:4])
        if repo not in hub_.branches:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        action = parts[4] if len(parts) > 4 else "revision"
        revision = parts[5] if len(parts) > 5 else "main"
        if action == "branch":
            hub_.branches[repo].setdefault(revision, hub_.branches[repo]["main"])
            return self.answer(200, b"{}")
        if action == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
            return self.answer_json({"files": modes})
        if action == "commit":
            return self.make_commit(repo, revision, body)
        commit = hub_.resolve(repo, revision)
        if commit is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        siblings = [sibling(name, data) for name, data in hub_.commits[commit].items()]
        facts = {"id": repo, "sha": commit, "private": repo in hub_.private, "siblings": siblings, "tags": []}
        return self.answer_json(facts)

    def create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted['organization']}/{wanted['name']}"
        url = f"{self.server.endpoint}/{repo}"
        if repo in self.server.branches:
            return self.answer(409, json.dumps({"url": url, "error": "You already created this model repo"}).encode())
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.server.private.add(repo)
        self.server.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.answer_json({"url": url, "name": repo, "id": repo})

    def batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {
                **entry,
                "actions": {"upload": {"href": f"{self.server.endpoint}/lfs-store/{entry['oid']}", "header": {}}},
            }
            for entry in wanted["objects"]
        ]
        return self.answer_json({"transfer": "basic", "objects": objects})

    def make_commit(self, repo: str, branch: str, body: bytes) -> None:
        files: dict[str, bytes] = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                data = self.server.store[value["oid"]]
                assert hashlib.sha256(data).hexdigest() == value["oid"]
                files[value["path"]] = data
        commit = self.server.commit(repo, files, branch)
        url = f"{self.server.endpoint}/{repo}/commit/{commit}"
        return self.answer_json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def resolve(self, repo: str, revision: str, name: str, with_body: bool) -> None:
        hub_ = self.server
        commit = hub_.resolve(repo, revision)
        data = hub_.commits.get(commit or "", {}).get(name)
        if data is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        etag = hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else blob_id(data)
        data = hub_.replaced.get(name, data)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit or "")
        self.end_headers()
        if not with_body:
            return None
        if hub_.cuts and name.endswith(".safetensors"):
            hub_.cuts -= 1
            self.wfile.write(data[start : start + len(data) // 3])
            self.close_connection = True
            self.connection.close()
            return None
        self.wfile.write(data[start:])
        return None

    def answer_json(self, data: Any) -> None:
        self.answer(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sibling(name: str, data: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
    if name.endswith(".safetensors"):
        facts["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return facts


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library's, between attempts
    huggingface_hub.close_session()  # one that another test opened may go through that test's proxy
    with running(HubServer()) as server:
        # The library reads its environment once, when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def small() -> Network:
    """A classifier: few layers, so that it is quickly written and read."""
    return build_model(classifier_config("small")).eval()


@pytest.fixture
def folder(small: Network, tmp_path: Path) -> Path:
    """The classifier as a converted model."""
    return saved(tmp_path / "small", small)


def same(one: Network, other: Network) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[key]) for key, tensor in one.state_dict().items())


def downloads(server: HubServer) -> list[str]:
    return [call.rsplit("/", 1)[1] for call in server.calls if call.startswith("GET") and "/resolve/" in call]


def test_up_and_down_again(server: HubServer, folder: Path, small: Network, home: Path) -> None:
    server.needs_token = True
    pushed = push(folder, "me/small", private=True)
    commit = server.branches["me/small"]["main"]
    assert pushed.commit == commit
    assert pushed.url == f"{server.endpoint}/me/small/commit/{commit}"
    assert "me/small" in server.private
    files = server.commits[commit]
    assert set(files) == {".gitattributes", "README.md", "model.safetensors", "model_config.json"}
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()

    model = load_pretrained("me/small")
    assert same(model, small)
    assert model.config == small.config
    # Nothing else is read from there.
    assert sorted(downloads(server)) == ["model.safetensors", "model_config.json"]
    cached = home / "hub" / "me--small" / commit
    assert sorted(entry.name for entry in cached.iterdir()) == ["hub.json", "model.safetensors", "model_config.json"]
    assert json.loads((cached / "hub.json").read_text())["commit"] == commit
    # From the cache the next time; pinned to the commit without a question.
    load_pretrained("me/small")
    server.calls.clear()
    load_pretrained("me/small", revision=commit)
    assert server.calls == []


def test_a_branch_is_resolved_and_followed(server: HubServer, folder: Path, small: Network) -> None:
    push(folder, "me/small")
    first = server.branches["me/small"]["main"]
    push(folder, "me/small", revision="tuned")
    changed = {key: tensor.clone() for key, tensor in small.state_dict().items()}
    changed["head.fc.bias"] += 1
    save_model(folder, small.config, changed, overwrite=True)
    push(folder, "me/small", revision="tuned")
    assert server.branches["me/small"]["main"] == first
    assert same(load_pretrained("me/small"), small)
    tuned = load_pretrained("me/small", revision="tuned")
    assert torch.equal(tuned.state_dict()["head.fc.bias"], changed["head.fc.bias"])
    assert same(load_pretrained("me/small", revision=first), small)


def test_a_commit_is_that_commit(server: HubServer, folder: Path, home: Path) -> None:
    push(folder, "me/small")
    other = "0" * 40
    server.branches["me/small"][other] = server.branches["me/small"]["main"]  # a branch that is called like a commit
    with pytest.raises(SourceError, match=f"asked for the commit {other}, the Hub answers with"):
        load_pretrained("me/small", revision=other)
    assert list(home.rglob("*.safetensors")) == []


def test_too_many_requests_and_cut_connections(server: HubServer, folder: Path, small: Network) -> None:
    server.busy = 2
    push(folder, "me/small")
    server.busy, server.cuts = 2, 2
    assert same(load_pretrained("me/small"), small)
    assert downloads(server).count("model.safetensors") >= 3
    assert server.cuts == 0


def test_too_many_requests_for_ever(server: HubServer, folder: Path) -> None:
    push(folder, "me/small")
    server.busy = 10_000
    with pytest.raises(SourceError, match=r"me/small: .*429"):
        load_pretrained("me/small")


@pytest.mark.parametrize("name", ["model.safetensors", "model_config.json"])
def test_a_wrong_hash_is_discarded(server: HubServer, folder: Path, name: str, home: Path, small: Network) -> None:
    push(folder, "me/small")
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    server.replaced[name] = bytes(data)
    with pytest.raises(SourceError, match=rf"what came as {name} has the digest .* It was discarded"):
        load_pretrained("me/small")
    assert [path for path in home.rglob("*") if path.is_file() and path.name != ".lock"] == []
    server.replaced.clear()
    assert same(load_pretrained("me/small"), small)


def test_what_is_not_there_and_what_is_not_ours(
    server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError, match=r"me/none: is not at .*, or it is private and HF_TOKEN"):
        load_pretrained("me/none")
    push(folder, "me/small")
    with pytest.raises(SourceError, match="me/small: has no such revision"):
        load_pretrained("me/small", revision="nowhere")
    server.commit("me/other", {"pytorch_model.bin": b"\x80\x04pickle", "model_config.json": b"{}"})
    with pytest.raises(SourceError, match=r"me/other at .* has no model.safetensors"):
        load_pretrained("me/other")
    server.needs_token = True
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for act in (lambda: load_pretrained("me/small"), lambda: push(folder, "me/small")):
        with pytest.raises(SourceError, match="HF_TOKEN"):
            act()
    assert "pytorch_model.bin" not in downloads(server)


def test_a_config_that_is_none(server: HubServer, folder: Path, home: Path) -> None:
    push(folder, "me/small")
    server.commit("me/small", {"model_config.json": b'{"name": "small"}'})
    with pytest.raises(ConfigError, match=r"model_config.json.*is missing"):
        load_pretrained("me/small")
    server.commit("me/small", {"model_config.json": b" " * (9 << 20)})
    with pytest.raises(SourceError, match=r"has 9437184 bytes by the Hub's account; 8,388,608 is the limit"):
        load_pretrained("me/small")
    assert list(home.rglob("*.safetensors")) == []


def test_without_a_network_what_is_here_is_taken(server: HubServer, folder: Path, small: Network) -> None:
    push(folder, "me/small")
    commit = server.branches["me/small"]["main"]
    load_pretrained("me/small")
    constants.ENDPOINT = "http://127.0.0.1:9"
    with pytest.warns(UserWarning, match=f"taking what it was the last time, {commit}"):
        assert same(load_pretrained("me/small"), small)
    assert same(load_pretrained("me/small", revision=commit), small)
    with pytest.raises(SourceError, match="no connection"):
        load_pretrained("me/another")


def test_a_damaged_cache_is_fetched_again(server: HubServer, folder: Path, small: Network, home: Path) -> None:
    push(folder, "me/small")
    load_pretrained("me/small")
    (weights,) = home.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4])
    assert same(load_pretrained("me/small"), small)


def test_what_is_refused_before_anything_is_sent(server: HubServer, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the name of a Hub repository"):
        push(folder, "small")
    with pytest.raises(ConfigError, match="is not a converted model"):
        push(tmp_path, "me/small")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileFormatError):
        push(folder, "me/small")
    assert server.calls == []


def test_private_is_not_taken_for_granted(server: HubServer, folder: Path) -> None:
    push(folder, "me/small")
    before = dict(server.commits)
    with pytest.raises(ConfigError, match="is there and public"):
        push(folder, "me/small", private=True)
    assert server.commits == before


def test_cards_that_people_wrote_stay(server: HubServer, folder: Path) -> None:
    push(folder, "me/small")
    server.commit("me/small", {"README.md": b"---\nlicense: mit\n---\nmine"})
    assert "stays as it is" in push(folder, "me/small").notes[0]
    assert server.commits[server.branches["me/small"]["main"]]["README.md"].endswith(b"mine")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nfrom the folder", encoding="utf-8")
    assert push(folder, "me/small").notes == ()
    assert server.commits[server.branches["me/small"]["main"]]["README.md"].endswith(b"from the folder")


def test_the_card(small: Network, tmp_path: Path, server: HubServer, folder: Path) -> None:
    figures = {
        "model": "small",
        "holds": True,
        "reference": "its export",
        "engine": "Paddle",
        "engine_version": "3.3.1",
        "torch_version": "2.13.0",
        "output": {"absolute": 4.8e-6, "relative": 5e-6},
        "layers": [
            {"leaf": True, "local": {"relative": 1.5e-6}, "accumulated": {"relative": 1.9e-5}},
            {"leaf": True, "local": None, "accumulated": {"relative": 2e-6}},
            {"leaf": False, "local": {"relative": 1.0}, "accumulated": {"relative": 1.0}},
        ],
    }
    report = tmp_path / "verification.json"
    report.write_text(json.dumps([figures]), encoding="utf-8")
    done = CliRunner().invoke(main, ["push", str(folder), "me/small", "--verification", str(report)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{server.endpoint}/me/small/commit/")
    card = server.commits[server.branches["me/small"]["main"]]["README.md"].decode()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "paddle2torch"
    assert metadata["pipeline_tag"] == "image-classification"
    assert 'load_pretrained("me/small", fused=True)' in card
    assert "holds: 2 layers against its export, Paddle 3.3.1" in card
    assert "| local, worst layer | 1.5e-06 |" in card
    assert "| accumulated, worst layer | 1.9e-05 |" in card
    data = huggingface_hub.ModelCard(card).data
    assert data.library_name == "paddle2torch"
    scores = {result.metric_name: result.metric_value for result in data.eval_results}
    assert scores == {
        "largest difference of the output from Paddle's, absolute": 4.8e-6,
        "largest local error of a layer, relative": 1.5e-6,
        "largest accumulated error of a layer, relative": 1.9e-5,
    }
    reader = hub_card(replace(small_config(), name="en_PP-OCRv4_rec"), "me/reader", "mit", None)
    metadata = yaml.safe_load(reader.split("---\n")[1])
    assert metadata["pipeline_tag"] == "image-to-text"
    assert metadata["language"] == ["en"]
    assert metadata["license"] == "mit"
    assert "7 characters" in reader
    assert metadata["base_model"] == "PaddlePaddle/en_PP-OCRv4_mobile_rec"
    assert "## Characters\n\n7: Latin 7. All of them" in reader
    assert "\n\nabcdefg\n" in reader
    assert "paddle2torch ocr page.jpg --rec me/reader" in reader
    assert (
        "The weights: mit. They are those of en_PP-OCRv4_rec, which PaddlePaddle published under Apache-2.0." in reader
    )
    assert "Not measured" in reader
    report.write_text("[]", encoding="utf-8")
    done = CliRunner().invoke(main, ["push", str(folder), "me/small", "--verification", str(report)])
    assert done.exit_code == 1
    assert "has no figures of small" in done.output


def test_a_training_is_published_with_its_weights_and_no_path_of_the_machine(
    small: Network, tmp_path: Path, server: HubServer
) -> None:
    origin = Origin("trained here", source="local file /home/my name/best.pdparams", notes=("read /srv/x y/a.txt",))
    network = build_model(replace(small.config, origin=origin))
    folder = saved(tmp_path / "trained", network)
    settings = {
        "pretrained": "/home/my name/zoo/small",
        "data": {"train": {"dataset": {"data_dir": "C:\\Users\\me\\lines", "label_file_list": ["~/a b/train.txt"]}}},
        "output": {"dir": "../run"},
    }
    data = {"train": {"samples": 1200, "digest": "ab12"}, "eval": {"samples": 300, "digest": "cd34"}}
    card = {"settings": settings, "data": data, "versions": {"torch": "2.13.0"}, "started_from": "fine-tuned from x"}
    (folder / "training.json").write_text(json.dumps(card), encoding="utf-8")
    measured = {"step": 50, "measured": 48, "acc": 0.7833}
    (folder / "metrics.json").write_text(json.dumps(measured), encoding="utf-8")
    push(folder, "me/trained")
    files = server.commits[server.branches["me/trained"]["main"]]
    for name, content in files.items():
        for part in (b"my name", b"/srv", b"Users", b"a b", str(tmp_path).encode()):
            assert part not in content, f"{part!r} in {name}"
    assert json.loads(files["metrics.json"]) == measured
    published = json.loads(files["training.json"])
    assert published["settings"]["pretrained"] == "small"
    assert published["settings"]["data"]["train"]["dataset"] == {"data_dir": "lines", "label_file_list": ["train.txt"]}
    assert published["settings"]["output"]["dir"] == "../run"
    assert json.loads(files["model_config.json"])["origin"]["source"] == "local file best.pdparams"
    readme = files["README.md"].decode()
    assert "- fine-tuned from x, 50 steps\n- train data: 1,200 samples, digest ab12" in readme
    assert "after step 48:\n\n| | |\n| --- | --- |\n| acc | 0.7833 |" in readme
    (result,) = huggingface_hub.ModelCard(readme).data.eval_results
    assert (result.metric_name, result.metric_type, result.metric_value) == (None, "acc", 0.7833)
    assert result.dataset_name == "evaluation data of the training, 300 samples"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/a/b.txt", "b.txt"),
        ("C:\\a b\\c.txt", "c.txt"),
        ("\\\\host\\share\\c.txt", "c.txt"),
        ("file:///a/b.txt", "b.txt"),
        ("characters of /a/b c/d.txt, and/or others", "characters of d.txt, and/or others"),
        ("https://host/a/b.tar", "https://host/a/b.tar"),
        ("hf://org/repo@main/a.onnx", "hf://org/repo@main/a.onnx"),
        ("a/b.txt", "a/b.txt"),
        ("CTC / NRTR / SAR, 1/2", "CTC / NRTR / SAR, 1/2"),
    ],
)
def test_paths_are_published_without_their_folders(text: str, said: str) -> None:
    assert without_folders(text) == said


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("org/name", True), ("a.b/c-d_e", True), ("name", False), ("a/b/c", False), ("../x", False), ("a/..", False)],
)
def test_names(name: str, is_one: bool) -> None:
    assert is_hub_id(name) == is_one


def test_a_revision_is_of_the_hub(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is not a Hub repository"):
        load_pretrained(folder, revision="main")


@pytest.mark.slow
def test_by_the_environment_in_processes_of_their_own(server: HubServer, folder: Path, home: Path) -> None:
    """As a user runs it, twice at once: HF_ENDPOINT names the Hub, nothing is patched."""
    push(folder, "me/small")
    server.calls.clear()
    environment = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    script = "from paddle2torch import load_pretrained; print(load_pretrained('me/small').config.name)"
    pipe = subprocess.PIPE
    users = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    for user in users:
        said, errors = user.communicate(timeout=120)
        assert user.returncode == 0, errors
        assert said.strip() == "small"
    assert downloads(server).count("model.safetensors") == 1


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "model_config.json", "training.json"])
def test_what_leads_out_of_the_folder_is_not_published(
    server: HubServer, folder: Path, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"a key")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(FileFormatError, match=f"{name} is a link that leads out of its folder"):
        push(folder, "me/small")
    assert server.calls == []


def test_a_revision_that_is_no_name_is_kept_in_the_cache_all_the_same(
    server: HubServer, folder: Path, home: Path, small: Network
) -> None:
    push(folder, "me/small")
    push(folder, "me/small", revision="pr/1")
    assert same(load_pretrained("me/small", revision="pr/1"), small)
    refs = home / "hub" / "me--small" / "refs"
    assert [path.name for path in refs.iterdir()] == [hashlib.sha256(b"pr/1").hexdigest()]


def misbehave(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, begin: bytes, chunk: bytes, pause: float
) -> list[int]:
    """Make the server answer every GET with `begin`, and `chunk` without end; counts the bytes in what it returns."""
    sent = [0]

    def respond(handler: HubHandler, body: bool) -> None:
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.wfile.write(begin)
            while sent[0] < 1 << 30:
                sent[0] += handler.wfile.write(chunk)
                threading.Event().wait(pause)

    monkeypatch.setattr(HubHandler, "do_GET", lambda handler: respond(handler, True))
    monkeypatch.setattr(hub_access, "check_reachable", lambda url: None)
    return sent


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"])
def test_an_answer_of_the_hub_without_end(server: HubServer, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    sent = misbehave(server, monkeypatch, begin, bytes(1 << 16), 0)
    with pytest.raises(SourceError, match="larger than 16,777,216 bytes"):
        load_pretrained("me/small")
    assert sent[0] < 64 << 20


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "], ids=["body", "header"])
def test_a_hub_that_drips(server: HubServer, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    misbehave(server, monkeypatch, begin, b"x", 0.05)
    monkeypatch.setattr(hub_access, "ANSWER_SECONDS", 1.0)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"not answered wholly within|comes too slowly"):
        load_pretrained("me/small")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "figures", [[{"model": "small"}], [{"model": "small", "layers": [1]}], [{"model": "small", "layers": 3}]]
)
def test_figures_that_are_none(server: HubServer, folder: Path, tmp_path: Path, figures: list[object]) -> None:
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    with pytest.raises(ConfigError, match="is not what `paddle2torch verify --json` prints"):
        push(folder, "me/small", verification=tmp_path / "figures.json")
    assert server.calls == []


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """A small recogniser in each form that a repository may have, by the paths of its files."""
    folder, model = tmp_path_factory.mktemp("layouts"), onnx_writer.network("rec")
    state, _ = transformers_state(model)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    checkpoint = write_pdparams(folder / "x.pdparams", to_paddle(layout_table(model), model.state_dict()))
    characters = "\n".join(onnx_writer.CONFIGS["rec"].charset or ())
    return {
        "transformers": {
            "README.md": b"not read",
            "config.json": json.dumps(transformers_config(model)).encode(),
            "preprocessor_config.json": json.dumps(processor_config(model.config)).encode(),
            "model.safetensors": (folder / "model.safetensors").read_bytes(),
        },
        "onnx": {"inference.onnx": onnx_writer.write(folder / "x.onnx", "rec", character=characters).read_bytes()},
        "checkpoint": {
            "run/best_accuracy.pdparams": checkpoint.read_bytes(),
            "run/best_accuracy_dict.txt": characters.encode(),
        },
    }


@pytest.mark.parametrize("layout", ["transformers", "onnx", "checkpoint"])
def test_weights_come_from_a_repository(
    server: HubServer,
    layouts: dict[str, dict[str, bytes]],
    layout: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = server.commit("you/rec", layouts[layout])
    conversion = convert("own", weights="you/rec", output=tmp_path / "out")
    expected = onnx_writer.network("rec").state_dict()
    state = load_pretrained(tmp_path / "out").state_dict()
    if layout != "onnx":  # that has the fused form
        assert all(torch.equal(expected[key], tensor) for key, tensor in state.items())
    assert conversion.config.origin is not None
    assert conversion.config.origin.source == f"Hugging Face Hub you/rec at {commit}"
    assert set(conversion.config.origin.files) <= {name.rpartition("/")[2] for name in layouts[layout]}
    assert "README.md" not in downloads(server)
    # The commit is kept, and followed where the branch moves.
    server.calls.clear()
    hashed: list[str] = []

    def digest_of(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    for module in (repositories, sources):
        monkeypatch.setattr(module, "sha256_of", digest_of)
    convert("own", weights=f"hf://you/rec@{commit}", output=tmp_path / "again")
    assert server.calls == []
    assert len(hashed) == len(set(hashed)) >= len(conversion.config.origin.files)


def test_which_file_of_a_repository(server: HubServer, layouts: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    (model,) = layouts["onnx"].values()
    server.commit("you/many", {"det/a.onnx": b"\x08", "rec/b.onnx": model, "rec/b.onnx_data": b"1"})
    done = CliRunner().invoke(main, ["convert", "own", "--weights", "you/many", "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "has several .onnx files: 'det/a.onnx', 'rec/b.onnx'. Say which: hf://org/repo/PATH" in done.stderr
    for address in ("hf://you/many/rec/b.onnx", "hf://you/many@main/rec"):
        done = CliRunner().invoke(main, ["convert", "own", "--weights", address, "-o", str(tmp_path / "out")])
        assert done.exit_code == 0, done.stderr
        shutil.rmtree(tmp_path / "out")
    assert "a.onnx" not in downloads(server)
    assert "b.onnx_data" in downloads(server)


def test_what_a_repository_does_not_have(server: HubServer, layouts: dict[str, dict[str, bytes]], folder: Path) -> None:
    def refused(weights: str) -> str:
        with pytest.raises(Paddle2TorchError) as error:
            convert("own", weights=weights, output=folder / "out")
        assert not (folder / "out").exists()
        return str(error.value)

    server.commit("you/text", {"pytorch_model.bin": b"\x80\x04pickle", "config.json": b"{}"})
    assert "has no model that is read here: neither config.json with model.safetensors" in refused("you/text")
    assert "has no rec" in refused("hf://you/text/rec")
    assert "you/text: has no such revision" in refused("hf://you/text@v2")
    assert refused("a/b").startswith("a/b is no file or folder here, and on the Hub a/b: is not at")
    assert "no such file or folder" in refused("a/b.pdparams")
    for address in ("hf://you", "hf:you/text", "hf://you/text/../other", "hf://you/a..b"):
        assert "is no address on the Hub" in refused(address)
    push(folder, "me/small")
    assert "is converted already: load_pretrained takes it by its name" in refused("me/small")
    # What came is held to what the Hub lists.
    server.commit("you/rec", layouts["onnx"])
    server.replaced["inference.onnx"] = layouts["onnx"]["inference.onnx"][:-1] + b"x"
    assert "what came as inference.onnx has the digest" in refused("you/rec")


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_address("you/rec") == HubAddress("you/rec", "you/rec", certain=False)
    assert hub_address("hf://you/rec@v1/onnx/") == HubAddress("hf://you/rec@v1/onnx/", "you/rec", "v1", "onnx")
    (tmp_path / "you").mkdir()
    (tmp_path / "you" / "rec.pdparams").write_bytes(b"")
    for path in ("you/rec", Path("you/other"), "you/rec.onnx", "a/b/c"):
        assert hub_address(path) is None


def test_a_card_names_the_other_forms_of_the_hub(server: HubServer, layouts: dict[str, dict[str, bytes]]) -> None:
    """Asked for in the order of the card; a Hub without the first gives the second."""
    server.commit("you/rec_safetensors", layouts["transformers"])
    sources = load_card("PP-OCRv5_mobile_rec").sources.inference
    files = [source.files for source in sources if isinstance(source, HubSource)]
    assert files[1:] == [
        ("inference.onnx", "inference.yml"),
        ("config.json", "preprocessor_config.json", "model.safetensors"),
    ]
    hub = (HubSource(repo="you/rec_onnx", files=files[1]), HubSource(repo="you/rec_safetensors", files=files[2]))
    card = replace(load_card("PP-OCRv5_mobile_rec"), name="tiny_rec", sources=Sources((), hub))
    found = obtain(card, progress=False)
    assert found.source == hub[1]
    assert sorted(found.sha256) == sorted(files[2])
    assert found.path.is_dir()
    assert found.tried[0].startswith("Hugging Face Hub you/rec_onnx: ")


def test_a_hub_that_cannot_be_reached_is_asked_once(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(hub_access, "check_reachable", lambda url: asked.append(url) or unreachable())
    hub = tuple(HubSource(repo=f"you/{name}", files=("inference.onnx",)) for name in ("one", "two"))
    card = replace(load_card("PP-OCRv5_mobile_rec"), name="tiny_rec", sources=Sources((), hub))
    with pytest.raises(SourceError, match=r"you/one: no connection\n  - .*you/two: the Hub cannot be reached, as it"):
        obtain(card, progress=False)
    assert len(asked) == 1


def unreachable() -> None:
    raise UnreachableError("no connection")


@pytest.fixture
def publish_all() -> Any:
    """`scripts/publish_all.py`."""
    found = importlib.util.spec_from_file_location("publish_all", ROOT / "scripts" / "publish_all.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["publish_all"] = module
    found.loader.exec_module(module)
    return module


def test_all_models_are_published_and_a_run_that_was_cut_off_goes_on(
    server: HubServer, small: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, publish_all: Any
) -> None:
    asked: list[str] = []
    cut: list[bool] = []

    def convert_one(name: str) -> SimpleNamespace:
        asked.append(name)
        if name == "gone":
            raise SourceError("no source of gone answered. Tried:\n  - all")
        save_model(zoo_dir() / name, replace(small.config, name=name), small.state_dict())
        return SimpleNamespace(folder=zoo_dir() / name)

    def prove(folder: Path) -> SimpleNamespace:
        asked.append(f"proof of {folder.name}")
        if folder.name == "cut" and not cut:
            cut.append(True)
            raise KeyboardInterrupt
        return SimpleNamespace(holds=folder.name != "wrong", reference="its export", name=folder.name)

    figures = {
        "holds": True,
        "reference": "its export",
        "engine": "Paddle",
        "engine_version": "3",
        "torch_version": "2",
    }
    measured = {**figures, "output": {"absolute": 1e-6, "relative": 1e-6}, "layers": []}
    monkeypatch.setattr(publish_all, "convert", convert_one)
    monkeypatch.setattr(publish_all, "verify", prove)
    monkeypatch.setattr(publish_all, "as_data", lambda result: {"model": result.name, **measured})
    names = ["one", "gone", "wrong", "cut", "two"]
    command = ["me", *names, "--state", str(tmp_path / "state")]
    with pytest.raises(KeyboardInterrupt):
        publish_all.main(command)
    assert set(server.branches) == {"me/one"}
    asked.clear()
    assert publish_all.main(command) == 1
    assert asked == ["gone", "proof of wrong", "proof of cut", "two", "proof of two"]
    assert set(server.branches) == {"me/one", "me/cut", "me/two"}
    card = server.commits[server.branches["me/two"]["main"]]["README.md"].decode()
    assert "`paddle2torch verify` holds" in card
    record = json.loads((tmp_path / "state" / "published.json").read_text(encoding="utf-8"))
    assert record["gone"]["problem"] == "no source of gone answered. Tried:"
    assert record["wrong"]["problem"] == "wrong does not hold against its export: it is not published"
    before = dict(server.branches)
    assert publish_all.main(["me", "one", "two", "--state", str(tmp_path / "state")]) == 0
    assert server.branches == before
