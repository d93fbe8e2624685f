"""Publishing a model or an adapter: one commit, and where that fails a true word about what the Hub holds."""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from transformers import PreTrainedModel

from .cards import render_directory
from .foreign import one_line, read_metadata
from .plan import PushPlan, matches, plan_push


logger = logging.getLogger(__name__)

_STALE_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_STALE = (*_STALE_WEIGHTS, "*_granulon.py")
# as well as what HTTP says: an upload and a download that failed, a reply that was cut short
_FAILURES = (HTTPError, RuntimeError, LocalEntryNotFoundError, KeyError, json.JSONDecodeError)
_PAUSES = (0, 2, 6)  # seconds before each look at a commit whose reply was lost: it may be on its way
_NOT_OF_THE_MODEL = ("optimizer*", "scheduler*", "rng_state*", "*.bin", "*.pt", "*.pth", "global_step*")
_QUEUE = HfApi()  # one after the other: a commit names its parent
_ADVICE = {
    401: "Your token is not accepted. Log in (`hf auth login`), or set HF_TOKEN to a token that may write.",
    403: "Your token may not do this. Take one with write access to this repository, or another name for it.",
    404: "Look at the name. If it is right, the repository is gone, or hidden from your token.",
    409: "Another change is under way there. Push again.",
    412: "Somebody else's commit came first. Look at it, then push again.",
    413: "A file is larger than the Hub takes in one piece. Save with a smaller `max_shard_size`.",
    429: "You have asked too often. Wait a few minutes, then push again.",
}
_LATER = "Push again later: files that have arrived are not sent twice."


class PushError(OSError):
    """
    A push that ended without a commit that is known of.

    Attributes:
        is_committed: False, or `None` where nobody could be asked.
    """

    is_committed: bool | None = False


@dataclass(frozen=True)
class _Branch:
    """
    What a branch on the Hub holds.

    Attributes:
        head: hash of its newest commit.
        files: path -> hash of the content, SHA-256 where the Hub keeps it as LFS, else git's own.
    """

    repo_id: str
    revision: str
    head: str
    files: dict[str, str]

    def __str__(self) -> str:
        return f"{self.repo_id} ({self.revision})"

    def is_at(self, contents: dict[str, Path | bytes], gone: Iterable[str]) -> bool:
        """Whether it holds exactly these contents, and none of the files that should be gone."""
        return not set(gone) & set(self.files) and all(
            self.files.get(name) in _hashes(source) for name, source in contents.items()
        )


def push_directory(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    base_model: str | None = None,
    include: Iterable[str] = (),
    strict: bool = True,
    run_as_future: bool = False,
    token: str | bool | None = None,
    plan: PushPlan | None = None,
) -> Any:
    """
    Publish a model or an adapter in one commit: if the upload fails, the repository holds what it held before.

    Weights, index and code of an earlier push that this one does not replace are deleted in the same commit. A commit
    of somebody else's that comes in between is not overwritten: the push is refused.

    Args:
        private: visibility of a repository that does not exist yet.
        revision: branch; where it does not exist it is made, from `main`.
        strict: False sends in spite of faults.
        plan: from `plan_push`, if you have made it already.

    Returns:
        `huggingface_hub.CommitInfo`, or a future of it.

    Raises:
        ValueError: the plan has faults, or the repository holds a model and this is an adapter, or the reverse.
        PushError: the Hub refuses or cannot be reached. It says whether anything was committed.
    """
    api = HfApi(token=token)
    plan = plan or plan_push(directory, repo_id, base_model=base_model, include=include, api=api)
    if strict and plan.faults:
        raise ValueError("nothing was sent.\n- " + "\n- ".join(plan.faults))
    branch = _open_branch(api, repo_id, revision, plan.is_adapter, private)
    what = "adapter" if plan.is_adapter else "model"
    message = commit_message or f"Upload {what}, processor, code and card"
    arguments = (api, branch, plan.files, _STALE, {"commit_message": message})
    return api.run_as_future(_commit, *arguments) if run_as_future else _commit(*arguments)


def push_in_background(
    directory: str | Path, repo_id: str, *, commit_message: str, token: str | bool | None = None, **options: Any
) -> Any:
    """
    A future of `push_directory`, for checkpoints of a run that goes on: of the files as they are now, though the
    directory may be deleted meanwhile; what speaks against it, or fails, is logged and never ends the run.
    """
    kept = tempfile.mkdtemp(dir=Path(directory).parent, prefix=".push-")
    left = shutil.ignore_patterns(*_NOT_OF_THE_MODEL)
    shutil.copytree(directory, kept, dirs_exist_ok=True, ignore=left, copy_function=_link)

    def push() -> Any:
        try:
            plan = plan_push(kept, repo_id, api=HfApi(token=token))
            for fault in plan.faults:
                logger.warning(fault)
            return push_directory(
                kept, repo_id, plan=plan, strict=False, commit_message=commit_message, token=token, **options
            )
        except (ValueError, OSError) as error:
            logger.warning("%s was not pushed: %s", directory, error)
            return None
        finally:
            shutil.rmtree(kept, ignore_errors=True)

    return _QUEUE.run_as_future(push)


def push_pretrained(
    model: PreTrainedModel,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "50GB",
    tags: list[str] | None = None,
) -> Any:
    """
    `PreTrainedModel.push_to_hub` with our card in place of the library's stub; a card that people wrote is kept.

    Raises:
        ValueError, PushError: as `push_directory`.
    """
    api = HfApi(token=token)
    if "/" not in repo_id:
        with _explained(api, repo_id):
            repo_id = f"{api.whoami()['name']}/{repo_id}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        branch = _open_branch(api, repo_id, revision, not (folder / "config.json").exists(), private)
        if not _has_card(api, branch):
            card = render_directory(folder, repo_id, title=repo_id.split("/")[-1])
            card.data["tags"] = list(dict.fromkeys([*card.data["tags"], *(tags or [])]))
            card.save(folder / "README.md")
        files: dict[str, Path | bytes] = {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
        }
        words = {"commit_message": commit_message or "Upload model", "commit_description": commit_description}
        return _commit(api, branch, files, _STALE_WEIGHTS, {**words, "create_pr": create_pr})


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)  # costs no space
    except OSError:
        shutil.copy2(source, target)


# ---------------------------------------------------------------------- what the Hub holds


def _open_branch(api: HfApi, repo_id: str, revision: str | None, is_adapter: bool, private: bool | None) -> _Branch:
    """The branch that is to be written; repository and branch are made where they are missing."""
    revision = revision or "main"
    with _explained(api, repo_id):
        try:
            branch = _look(api, repo_id, revision)
        except RevisionNotFoundError:
            branch = _look(api, repo_id, "main")
        if branch is None:
            api.create_repo(repo_id, private=private, exist_ok=True)
            branch = _look(api, repo_id, "main")
            if branch is None:
                raise PushError(f"{repo_id} exists, but is hidden from your token. Nothing was sent.")
        _refuse_mixing(branch, is_adapter)
        if branch.revision != revision:  # a new branch holds what `main` holds
            if revision.startswith("refs/"):
                raise ValueError(f"{repo_id} has no {revision}. Open the pull request first, or name a branch.")
            api.create_branch(repo_id, branch=revision, exist_ok=True)
            branch = _look(api, repo_id, revision)
            assert branch is not None
            _refuse_mixing(branch, is_adapter)
        return branch


def _look(api: HfApi, repo_id: str, revision: str) -> _Branch | None:
    """
    `None` where there is no such repository. Every other refusal is an error: what cannot be seen is not empty. (The
    library calls it "not found", too, when a token is missing or a repository is gated.)
    """
    try:
        head = str(api.model_info(repo_id, revision=revision).sha)
        entries = list(api.list_repo_tree(repo_id, recursive=True, revision=head))
    except RepositoryNotFoundError as error:
        if isinstance(error, GatedRepoError) or error.response.status_code != 404:
            raise
        return None
    files = {e.path: e.lfs.sha256 if e.lfs else e.blob_id for e in entries if isinstance(e, RepoFile)}
    return _Branch(repo_id, revision, head, files)


def _refuse_mixing(branch: _Branch, is_adapter: bool) -> None:
    if ("config.json" if is_adapter else "adapter_config.json") in branch.files:
        kinds = ("model", "an adapter") if is_adapter else ("adapter", "a model")
        raise ValueError(
            f"{branch} holds a {kinds[0]}, and this is {kinds[1]}; loaders would mix the two. Choose another name."
        )


def _has_card(api: HfApi, branch: _Branch) -> bool:
    """Whether the branch has a card that says something; the library's stub names no task."""
    if "README.md" not in branch.files:
        return False
    with _explained(api, branch.repo_id):
        path = api.hf_hub_download(branch.repo_id, "README.md", revision=branch.head)
    try:
        return "pipeline_tag" in read_metadata(Path(path))
    except ValueError:
        return False


def _hashes(source: Path | bytes) -> tuple[str, str]:
    """SHA-256 of a content, and the hash that git gives it."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    for block in [source] if isinstance(source, bytes) else _blocks(source):
        sha256.update(block)
        sha1.update(block)
    return sha256.hexdigest(), sha1.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


# ---------------------------------------------------------------------- the commit, and what to say when it fails


def _commit(
    api: HfApi, before: _Branch, files: dict[str, Path | bytes], stale: Iterable[str], options: dict[str, Any]
) -> CommitInfo:
    """One commit on top of `before`; the Hub refuses it where the branch has moved on."""
    gone = [name for name in before.files if name not in files and any(matches(name, pattern) for pattern in stale)]
    operations: list[Any] = [CommitOperationAdd(name, source) for name, source in files.items()]
    operations += [CommitOperationDelete(name) for name in gone]
    options = {"revision": before.revision, "parent_commit": before.head, **options}
    try:
        with _few_lines():
            return api.create_commit(before.repo_id, operations, **options)
    except _FAILURES as failure:
        error = _root(failure)
    if not _may_have_committed(error):
        raise _push_error(api, before, error, False, "Nothing of this push was committed.")
    if options.get("create_pr"):
        place = f"{api.endpoint}/{before.repo_id}/discussions"
        raise _push_error(api, before, error, None, f"Whether the pull request was opened is not known: see {place}.")
    now = _look_again(api, before)
    place = f"{api.endpoint}/{before.repo_id}/commits/{before.revision}"
    if now is None:
        said = f"Whether it was committed is not known, for the Hub does not say: see {place}."
        raise _push_error(api, before, error, None, said)
    if now.head == before.head:
        said = f"Nothing of this push was committed: the branch is still at {now.head[:8]}."
        raise _push_error(api, before, error, False, said)
    if not now.is_at(files, gone):
        said = f"The branch has moved from {before.head[:8]} to {now.head[:8]}, which is not this push: see {place}."
        raise _push_error(api, before, error, None, said)
    logger.warning("The Hub's reply was lost, but the commit is there: %s", now.head)
    url = f"{api.endpoint}/{before.repo_id}/commit/{now.head}"
    return CommitInfo(url, options["commit_message"], options.get("commit_description") or "", now.head)


def _look_again(api: HfApi, before: _Branch) -> _Branch | None:
    """The branch once it has moved, or when patience is at its end; `None` where the Hub does not answer."""
    now = None
    for pause in _PAUSES:
        time.sleep(pause)
        try:
            now = _look(api, before.repo_id, before.revision)
        except _FAILURES:
            continue
        if now is not None and now.head != before.head:
            break
    return now


def _may_have_committed(error: Exception) -> bool:
    """Whether the request for the commit was sent, and not refused."""
    if isinstance(error, RuntimeError) or type(error).__name__ in ("ConnectError", "ConnectTimeout"):
        return False  # an upload that failed, or no connection at all
    status = _status(error)
    if status is not None and 400 <= status < 500 and status != 408:
        return False
    try:
        return "/commit/" in error.request.url.path  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # a reply that was cut short: to what is not known
        return True


def _root(error: Exception) -> Exception:
    """What HTTP said, where the library wraps it in an error of its own."""
    cause = error.__cause__
    return cause if isinstance(cause, HTTPError) and not isinstance(error, HTTPError) else error


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


@contextmanager
def _explained(api: HfApi, target: Any) -> Iterator[None]:
    """Errors of what comes before the commit, in a few lines."""
    try:
        with _few_lines():
            yield
    except _FAILURES as failure:
        error = _root(failure)
    else:
        return
    raise _push_error(api, target, error, False, "Nothing of this push was committed.")


def _push_error(api: HfApi, target: Any, error: Exception, is_committed: bool | None, said: str) -> PushError:
    """What happened, what is there now, what to do: three lines, none of which repeats a secret."""
    status = _status(error)
    if isinstance(error, HfHubHTTPError):
        words = error.server_message or ""
        reason = f"The Hub refused the push to {target}: {status} {error.response.reason_phrase}"
        reason += f" ({_harmless(api, words)})" if words else ""
    else:
        reason = f"The push to {target} failed: {type(error).__name__} ({_harmless(api, error)})"
    found = PushError(f"{reason}.\n{said}\n{_ADVICE.get(status or 0, _LATER)}")
    found.is_committed = is_committed
    return found


def _harmless(api: HfApi, text: Any) -> str:
    """A server's words on one line, without tokens and signed addresses that it may echo."""
    text = str(text)
    for token in (api.token, get_token()):
        text = text.replace(token, "hf_***") if isinstance(token, str) and token else text
    text = re.sub(r"hf_\w{4,}|(?<=[Bb]earer )\S+|(?<=\?)\S*=\S*", "***", text)
    return one_line(text, 300).rstrip(".")


@contextmanager
def _few_lines() -> Iterator[None]:
    """The library logs two lines for each retry, with signed addresses: one line in all says as much."""
    client, heard = logging.getLogger("huggingface_hub.utils._http"), []

    def is_first(record: logging.LogRecord) -> bool:
        heard.append(record)
        record.msg, record.args = "The Hub does not answer as it should; trying again for a while ...", ()
        return len(heard) == 1

    client.addFilter(is_first)
    try:
        yield
    finally:
        client.removeFilter(is_first)
