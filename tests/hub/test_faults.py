"""Over real HTTP: whatever the Hub or the line does, no half commit, no secret, and one true word about the end."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.utils._http as client
import pytest
from huggingface_hub import CommitInfo, constants
from minihub import TOKEN, MiniHub, Repo
from tiny import make_granulon

from granulon.hub_cards import PushError, plan_push, push, push_directory, push_in_background, push_pretrained
from granulon.hub_cards.plan import PushPlan


OLD = {"config.json": b"{}", "model-00001-of-00002.safetensors": b"old", "README.md": b"# Old", "diary.md": b"kept"}
NEW: dict[str, Path | bytes] = {
    "config.json": b'{"new": 1}',
    "model.safetensors": b"new weights",
    "README.md": b"---\npipeline_tag: image-text-to-text\n---\n# New",
}
AFTER = {**NEW, "diary.md": b"kept"}  # the old shard is gone
ENDPOINTS = {
    "look": "/revision/",
    "list": "/tree/",
    "create": "/repos/create",
    "branch": "/branch/",
    "validate": "/validate-yaml",
    "preupload": "/preupload/",
    "batch": "/objects/batch",
    "upload": "/_lfs/",
    "commit": "/commit/",
}
FAULTS: list[int | str] = [401, 403, 404, 409, 429, 500, "cut", "lost"]


@pytest.fixture(scope="module")
def server() -> Iterator[MiniHub]:
    client.close_session()  # one that was opened offline
    hub = MiniHub()
    yield hub
    client.close_session()
    hub.close()


@pytest.fixture
def hub(server: MiniHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MiniHub:
    """An empty Hub, spoken to without pauses."""
    hub = server
    for records in (hub.repos, hub.blobs, hub.requests):
        records.clear()
    hub.refusals = lambda method, path: None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=lambda seconds: None))  # retries need not wait
    monkeypatch.setattr(push, "_PAUSES", (0, 0))
    return hub


def fill(hub: MiniHub, files: dict[str, bytes] = OLD) -> Repo:
    repo = hub.repos["org/x"] = Repo()
    repo.commits["a" * 40], repo.branches["main"] = files, "a" * 40
    return repo


def send(revision: str | None = None, is_adapter: bool = False) -> CommitInfo:
    plan = PushPlan(Path("."), "org/x", is_adapter, dict(NEW))
    return push_directory(".", "org/x", plan=plan, revision=revision, token=TOKEN)


def fail(part: str, fault: int | str) -> Callable[[str, str], int | str | None]:
    return lambda method, path: fault if part in path else None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_push_is_whole_or_absent_and_says_which(
    hub: MiniHub, endpoint: str, fault: int | str, caplog: pytest.LogCaptureFixture
):
    revision = "v2" if endpoint == "branch" else "main"
    if endpoint != "create":
        fill(hub)
    hub.refusals = fail(ENDPOINTS[endpoint], fault)
    try:
        result: Any = send(revision)
    except PushError as error:
        result = error
    said = "\n".join([str(result), *caplog.messages])
    assert TOKEN not in said
    assert len(str(result).splitlines()) <= 3 and len(caplog.messages) <= 1, said
    repo = hub.repos.get("org/x", Repo())
    if isinstance(result, CommitInfo):
        assert (endpoint, fault) in [("commit", "lost"), ("upload", "lost")]
        assert repo.files() == AFTER and result.oid == repo.branches["main"]
        assert endpoint == "upload" or "the commit is there" in caplog.text
    else:
        assert result.is_committed is False and "Nothing of this push was committed" in str(result)
        before = {"v2": [OLD], "main": [OLD if endpoint != "create" else {}]}[revision]
        assert all(repo.files(name) in before for name in repo.branches) and not repo.messages
        assert isinstance(fault, str) or endpoint in ("create", "branch") or f" {fault} " in str(result)


@pytest.mark.parametrize("endpoint", ["look", "list"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_listed_is_not_taken_for_empty(hub: MiniHub, endpoint: str, fault: int | str):
    fill(hub)
    hub.refusals = fail(ENDPOINTS[endpoint], fault)
    with pytest.raises(PushError):
        send()
    assert {method for method, _ in hub.requests} == {"GET"}, "nothing was made and nothing sent"


def test_an_adapter_never_lands_on_a_model(hub: MiniHub):
    fill(hub)
    for revision in ("main", "v2"):
        with pytest.raises(ValueError, match="would mix the two"):
            send(revision, is_adapter=True)
    assert list(hub.repos["org/x"].branches) == ["main"], "no branch was made for it"


def test_a_new_branch_starts_from_main_and_its_old_shards_go_too(hub: MiniHub):
    repo = fill(hub)
    send("v2")
    assert repo.files("v2") == AFTER and repo.files("main") == OLD
    with pytest.raises(ValueError, match="has no refs/pr/7"):
        send("refs/pr/7")


@pytest.mark.parametrize("code", ["GatedRepo", "RepoNotFound"])
def test_a_repository_that_is_hidden_is_not_one_that_is_missing(hub: MiniHub, code: str):
    """The library has one exception for both."""
    from minihub import _Refusal

    def refuse(method: str, path: str) -> None:
        if method == "GET":
            raise _Refusal(401, code)

    hub.refusals = refuse
    with pytest.raises(PushError, match="401.*\n.*\nYour token is not accepted"):
        send()
    assert not hub.repos


def test_a_name_that_is_taken_out_of_sight_is_said_to_be(hub: MiniHub):
    fill(hub)
    from minihub import _Refusal

    def hide(method: str, path: str) -> None:
        if method == "GET":
            raise _Refusal(404, "RepoNotFound")

    hub.refusals = hide
    with pytest.raises(PushError, match="hidden from your token"):
        send()
    assert not hub.repos["org/x"].messages


def test_when_nobody_answers_any_more_the_end_is_not_known(hub: MiniHub):
    repo, lost = fill(hub), []

    def fall_silent(method: str, path: str) -> str | None:
        lost.extend([path] if "/commit/" in path else [])
        return ("lost" if "/commit/" in path else "cut") if lost else None

    hub.refusals = fall_silent
    with pytest.raises(PushError, match="Whether it was committed is not known") as found:
        send()
    assert found.value.is_committed is None and repo.files() == AFTER
    assert f"{hub.url}/org/x/commits/main" in str(found.value)


def test_a_commit_that_arrives_late_is_waited_for(hub: MiniHub):
    repo, looks = fill(hub), []

    def delay(method: str, path: str) -> int | str | None:
        if "/commit/" in path:
            return "lost"
        if repo.messages and "/revision/" in path:
            looks.append(path)
            return 500 if len(looks) < 2 else None
        return None

    hub.refusals = delay
    assert send().oid == repo.branches["main"]


@pytest.mark.parametrize("reply", ["heard", "lost"])
def test_a_commit_of_somebody_else_is_not_overwritten(hub: MiniHub, reply: str):
    repo = fill(hub)

    def interfere(method: str, path: str) -> str | None:
        if "/preupload/" in path:
            repo.commits["b" * 40], repo.branches["main"] = {"theirs": b"1"}, "b" * 40
        return "cut" if reply == "lost" and "/commit/" in path else None

    hub.refusals = interfere
    with pytest.raises(PushError, match="came first" if reply == "heard" else "which is not this push") as found:
        send()
    assert found.value.is_committed is (False if reply == "heard" else None)
    assert repo.files() == {"theirs": b"1"}


def test_pushing_again_after_a_fault_completes_it(hub: MiniHub):
    repo = fill(hub)
    hub.refusals = fail("/commit/", 500)
    with pytest.raises(PushError):
        send()
    hub.refusals = lambda method, path: None
    uploads = sum("/_lfs/" in path for _, path in hub.requests)
    assert send().oid == repo.branches["main"] and repo.files() == AFTER
    assert sum("/_lfs/" in path for _, path in hub.requests) == uploads, "what had arrived is not sent twice"


def test_in_the_background_the_error_is_the_same(hub: MiniHub):
    fill(hub)
    hub.refusals = fail("/commit/", 403)
    plan = PushPlan(Path("."), "org/x", False, dict(NEW))
    future = push_directory(".", "org/x", plan=plan, token=TOKEN, run_as_future=True)
    with pytest.raises(PushError, match="Nothing of this push was committed"):
        future.result(timeout=30)


@pytest.mark.parametrize("fault", [None, 500, 403, "cut"])
def test_a_card_that_people_wrote_is_kept_also_when_it_cannot_be_read(hub: MiniHub, fault: int | str | None):
    card = b"---\npipeline_tag: image-text-to-text\n---\n# Written by hand"
    repo = fill(hub, {**OLD, "README.md": card, "processing_granulon.py": b"the processor's"})
    hub.refusals = fail("/resolve/", fault) if fault else hub.refusals
    model, _ = make_granulon()
    try:
        push_pretrained(model, "org/x", token=TOKEN)
    except PushError as error:
        assert fault and "Nothing of this push was committed" in str(error)
    assert repo.files()["README.md"] == card
    assert ("model.safetensors" in repo.files()) == (fault is None)
    assert ("model-00001-of-00002.safetensors" in repo.files()) == (fault is not None)
    assert "processing_granulon.py" in repo.files(), "it comes by the processor's own push"


def test_a_model_pushed_by_the_library_s_method_never_lands_on_an_adapter(hub: MiniHub):
    fill(hub, {"adapter_config.json": b"{}"})
    with pytest.raises(ValueError, match="would mix the two"):
        push_pretrained(make_granulon()[0], "org/x", token=TOKEN)


@pytest.mark.parametrize(
    ("fault", "words"), [(404, "not on the Hub"), (500, "could not be asked"), ("cut", "could not")]
)
def test_a_base_that_cannot_be_asked_for_is_not_called_missing(
    hub: MiniHub, tmp_path: Path, fault: int | str, words: str, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    caplog.set_level(logging.ERROR)
    hub.refusals = (lambda method, path: None) if fault == 404 else fail("/api/models/org/base", fault)
    faults = plan_push(tmp_path / "adapter", "org/x").faults
    assert any("org/base" in fault and words in fault for fault in faults), faults


def test_a_push_in_the_background_outlives_its_directory_and_ends_no_run(
    hub: MiniHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model, processor = make_granulon()
    checkpoint = tmp_path / "checkpoint-3"
    for attempt, fault in enumerate([500, None]):
        model.save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        (checkpoint / "optimizer.pt").write_bytes(b"not for others")
        hub.refusals = fail("/repos/create", fault) if fault else lambda method, path: None
        future = push_in_background(checkpoint, "org/x", commit_message=f"step {attempt}", token=TOKEN)
        shutil.rmtree(checkpoint)
        result = future.result(timeout=60)
        assert (result is None) == (fault is not None)
        assert ("was not pushed" in caplog.text) == (fault is not None)
        assert not list(tmp_path.glob(".push-*")), "nothing is left beside it"
        caplog.clear()
    files = hub.repos["org/x"].files()
    assert hub.repos["org/x"].messages == ["step 1"] and "optimizer.pt" not in files
    assert {"model.safetensors", "modeling_granulon.py", "tokenizer.json", "README.md"} <= set(files)
