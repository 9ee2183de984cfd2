"""What keeps a run from working on a cluster: said before anything is sent, with what to do."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from runner.cluster import joining
from runner.cluster.joining import Cluster, Node
from runner.cluster.looking import opened
from runner.cluster.messages import Place, Ready
from runner.cluster.sending import _reachable
from runner.errors import InputError
from runner.provider import Endpoint
from tests.cluster.cluster_support import Nodes, rows
from tests.engine.command_support import GOOD, Desk

RAY = ("--engine", "ray")


def test_without_ray_it_says_what_to_install(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No silent fallback: the exit code of a wrong input, nothing sent, no run on record."""
    monkeypatch.setitem(sys.modules, "ray", None)
    said = desk.run(desk.manifest("job", GOOD), *RAY)
    assert said.code == 2
    assert "pip install 'runner[ray]'" in said.err
    assert (desk.requests(), rows(desk, "SELECT count(*) FROM runs")) == (0, [(0,)])


def test_an_address_without_the_engine_is_a_slip(desk: Desk) -> None:
    """It would be passed over in silence, and the run be made here."""
    said = desk.run(desk.manifest("job", GOOD), "--ray-address", "auto")
    assert said.code == 2
    assert "--engine ray" in said.err


class _RayError(Exception):
    """What Ray's own errors derive from."""


def _as_ray_tells_it(text: str) -> Exception:
    """The error that it means is the last words of the cause of another."""
    error = ConnectionError("Failed to connect to Ray cluster at HOST:6379")
    error.__cause__ = RuntimeError(f"Failed to connect to GCS. Last connection error: Traceback: {text}")
    return error


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (
            _as_ray_tells_it("ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: the token is missing"),
            "the Ray cluster at auto is not for those without its token",
            "RAY_AUTH_MODE=token",
        ),
        (_as_ray_tells_it("Timed out"), "no Ray cluster is found", "ray start"),
        (RuntimeError("Version mismatch: The cluster\nwas started with"), "do not fit each other", "same versions"),
        (_RayError("it is\n no more"), "the Ray cluster at auto cannot be joined: it is no more", "ray start"),
    ],
)
def test_why_a_cluster_cannot_be_joined_is_told(error: Exception, words: str, hint: str) -> None:
    """Who brings no token is not told that there is no cluster."""

    def init(**_: object) -> None:
        raise error

    ray = SimpleNamespace(init=init, exceptions=SimpleNamespace(RayError=_RayError))
    with pytest.raises(InputError) as caught:
        joining._join(cast(ModuleType, ray), joining.AUTO)
    assert words in str(caught.value)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://127.0.0.1:10001", "Ray client"),
        ("host:port", "'host:port' is no address"),
        ("nowhere", "'nowhere' is no address"),
        ("127.0.0.1:1", "there is no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_an_address_of_no_cluster_is_told(desk: Desk, address: str, words: str) -> None:
    """With what to do instead; nothing is sent."""
    said = desk.run(desk.manifest("job", GOOD), *RAY, "--ray-address", address)
    assert said.code == 2, said.err
    assert words in said.err
    assert "hint:" in said.err
    assert "Traceback" not in said.err
    assert desk.requests() == 0


BLOCKED = """
    import importlib.abc, os, sys

    class Blocked(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "runner":
                raise ModuleNotFoundError("No module named 'runner'", name=name)

    if os.environ.get("HIDE") == "runner":
        sys.meta_path.insert(0, Blocked())
    elif os.environ.get("HIDE"):
        real = os.open

        def opened(path, *args, **kwargs):
            if str(path).startswith(os.environ["HIDE"]):
                raise FileNotFoundError(2, "No such file or directory", str(path))
            return real(path, *args, **kwargs)

        os.open = opened
"""
"""On a node: a program that is not there, or a folder that is not."""


@pytest.mark.parametrize("hidden", ["runner", "folder"])
def test_a_node_that_lacks_something_is_named(desk: Desk, nodes: Nodes, tmp_path: Path, hidden: str) -> None:
    """A node without this program, or without sight of the folder: which, what to do, and nothing is sent."""
    blocking = tmp_path / "blocking"
    blocking.mkdir()
    (blocking / "sitecustomize.py").write_text(textwrap.dedent(BLOCKED))
    hide = "runner" if hidden == "runner" else str(desk.folder / "output")
    added = nodes.add({"PYTHONPATH": str(blocking), "HIDE": hide})
    try:
        said = desk.run(desk.manifest("job", GOOD), *RAY, "--json")
    finally:
        nodes.cluster.remove_node(added)
    assert said.code == 2
    assert said.summary["reason"], said.summary
    if hidden == "runner":
        assert f"{added.node_id[:8]}) does not have runner" in said.summary["reason"]
        assert "install it there" in said.err + said.summary["reason"]
    else:
        assert f"does not see the folder {desk.folder / 'output'}" in said.summary["reason"]
        assert "s3://" in said.err + said.summary["reason"]
    assert desk.requests() == 0


def test_another_version_is_told(tmp_path: Path) -> None:
    """What one has on record, another might not understand."""
    found = opened(Place(tmp_path, "job", "job/.partial/t", b"t", "0.0.0"))
    assert isinstance(found, Ready)
    assert "0.0.0" in str(found.problem)


def test_another_folder_of_that_name_is_told(tmp_path: Path) -> None:
    """The token is what tells it from the driver's own."""
    from runner import __version__

    (tmp_path / "job/.partial").mkdir(parents=True)
    (tmp_path / "job/.partial/t").write_bytes(b"another")
    found = opened(Place(tmp_path, "job", "job/.partial/t", b"t", __version__))
    assert isinstance(found, Ready)
    assert "another folder lies there" in str(found.problem)
    assert not (tmp_path / "job/images").exists()


def test_a_server_of_this_machine_alone_is_not_asked_from_another() -> None:
    """Its nodes would all fail to connect, and the run after many tries."""

    class Two:
        own_address = "10.0.0.1"

        def nodes(self) -> list[Node]:
            return [Node("a", "one", "10.0.0.1", 1), Node("b", "two", "10.0.0.2", 1)]

    def endpoint(url: str) -> Any:
        return Endpoint("openai", url, "k")

    with pytest.raises(InputError, match="two"):
        _reachable(cast(Cluster, Two()), endpoint("http://127.0.0.1:80/v1"))
    _reachable(cast(Cluster, Two()), endpoint("https://example.com/v1"))


def test_local_begins_a_cluster_that_ends_with_the_run(desk: Desk) -> None:
    """For a machine without one: the same way, and nothing of it is left."""
    from tests.engine.command_support import wait

    process = desk.start("run", desk.manifest("job", GOOD), *desk.to_peer, *RAY, "--ray-address", "local", "--json")
    said = wait(process)
    assert (said.code, said.summary["made"]) == (0, 2)
