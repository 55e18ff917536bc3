"""Checkpoints as attackers: no payload runs, what does not fit is named, and who opens them can do little."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from beph_store.encoders.torch_side import confined
from beph_store.encoders.torch_side.confined import tensors_of
from beph_store.errors import HeadError, WeightsMismatch
from beph_store.heads import HeadOptions, fit, load_head, save_head
from beph_store.records import Bags, ClassTarget

SOAK = pytest.mark.soak  # each starts torch in a process of its own
KEYS = ("state_dict", "model")
CHILD = Path(confined.__file__).with_name("unpickle_child.py")


def payload(kind: str, mark: Path):
    """An object that makes ``mark`` when it is unpickled, in one of several ways."""
    reduced = {
        "os.system": (os.system, (f"touch {mark}",)),
        "eval": (eval, (f"open({str(mark)!r}, 'w').close()",)),
        "exec": (exec, (f"import pathlib; pathlib.Path({str(mark)!r}).touch()",)),
        "popen": (subprocess.check_call, (["touch", str(mark)],)),
        "open": (open, (str(mark), "w")),
        "mkdir": (os.mkdir, (str(mark),)),
    }[kind]
    return type("Payload", (), {"__reduce__": lambda self: reduced})()


KINDS = ["os.system", "eval", "exec", "popen", "open", "mkdir"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_payload_is_one(kind, tmp_path):
    """A test whose payload did nothing would prove nothing: Python's own pickle runs it."""
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(payload(kind, mark)))
    assert mark.exists()


def save(obj, path: Path, how: str) -> None:
    if how == "pickle":
        path.write_bytes(pickle.dumps(obj))
    else:
        torch.save(obj, path, _use_new_zipfile_serialization=how == "zip")


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("kind", ["os.system", pytest.param("eval", marks=pytest.mark.soak)])
def test_no_payload_runs_and_the_file_is_refused(tmp_path, kind, how):
    mark, path = tmp_path / "ran", tmp_path / "model.pth"
    save({"state_dict": {"a": torch.ones(2)}, "meta": payload(kind, mark)}, path, how)
    with pytest.raises(WeightsMismatch, match="refused, as opening it would run its code"):
        tensors_of(path, KEYS)
    assert not mark.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_that_gets_past_torch_is_stopped_by_the_process(tmp_path, kind):
    """As if ``weights_only`` were got round once more: the same guard, and then Python's own pickle."""
    mark, out = tmp_path / "ran", tmp_path / "out"
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(payload(kind, mark)))
    code = (
        f"import sys, pickle, pathlib; sys.path.insert(0, {str(CHILD.parent)!r}); import unpickle_child as child\n"
        f"data = open({str(tmp_path / 'p.pkl')!r}, 'rb').read(); child.guard(pathlib.Path({str(out)!r}))\n"
        "pickle.loads(data)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "PermissionError: the file tried pickle.find_class" in done.stderr
    assert not mark.exists()


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import os; os.system('touch {mark}')", "os.system"),
        ("import subprocess; subprocess.run(['touch', '{mark}'])", "subprocess.Popen"),
        ("import os; os.fork() or os._exit(0)", "os.fork"),
        ("import os; os.execv('/bin/touch', ['touch', '{mark}'])", "os.exec"),
        ("import socket; socket.create_connection(('127.0.0.1', {port}))", "socket."),
        ("open('{mark}', 'w')", "to write"),
        ("import os; os.open('{mark}', os.O_CREAT)", "to write"),
        ("import shutil; shutil.rmtree('{victim}')", "shutil.rmtree"),
        ("import os; os.remove('{victim}/file')", "os.remove"),
        ("import os; os.rename('{victim}', '{mark}')", "os.rename"),
        ("import os; os.symlink('{victim}', '{mark}')", "os.symlink"),
    ],
)
def test_what_the_process_cannot_do(tmp_path, code, event):
    mark, victim = tmp_path / "ran", tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = code.format(mark=mark, victim=victim, port=server.getsockname()[1])
        before = f"import sys, pathlib; sys.path.insert(0, {str(CHILD.parent)!r}); import unpickle_child as child\n"
        before += (
            f"import os, subprocess, socket, shutil; child.guard(pathlib.Path({str(tmp_path / 'out')!r}))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", before + text], capture_output=True, text=True, timeout=60, check=False
        )
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # whoever had come would wait here, accepted or not
            server.accept()
    assert done.returncode != 0
    assert f"the file tried {event}" in done.stderr
    assert not mark.exists()
    assert (victim / "file").read_text() == "precious"


def test_the_process_sees_no_secrets_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen = {}
    monkeypatch.setattr(
        confined.subprocess,
        "run",
        lambda command, **how: seen.update(how) or subprocess.CompletedProcess(command, 1, b"", b""),
    )
    (tmp_path / "m.pth").write_bytes(b"x")
    with pytest.raises(WeightsMismatch):
        tensors_of(tmp_path / "m.pth", KEYS)
    assert "secret" not in str(seen)


def test_tensors_come_through_as_they_are(tmp_path):
    shared = torch.arange(6, dtype=torch.float32)
    state = {
        "half": torch.randn(3, 4).half(),
        "brain": torch.randn(3).bfloat16(),
        "whole": torch.arange(5),
        "scalar": torch.tensor(7),
        "shared": shared,
        "view": shared[::2],
        "turned": torch.randn(2, 3).T,
        "empty": torch.zeros(0, 4),
    }
    path = tmp_path / "m.pth"
    torch.save({"state_dict": state, "author": "someone", "epoch": 3}, path)
    found = tensors_of(path, KEYS)
    assert set(found) == set(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.soak
def test_a_bomb_meets_the_limit_of_memory(tmp_path):
    """Ten megabytes that unpack to ten gigabytes."""
    path = tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(4)}, tmp_path / "small.pth")
    with (
        zipfile.ZipFile(tmp_path / "small.pth") as small,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for item in small.infolist():
            data = small.read(item)
            if item.filename.endswith("data/0"):
                with bomb.open(item.filename, "w", force_zip64=True) as member:
                    for _ in range(160):
                        member.write(ZEROS)
            else:
                bomb.writestr(item.filename, data)
    with pytest.raises(WeightsMismatch):
        tensors_of(path, KEYS)


ZEROS = bytes(16 << 20)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        *(
            pytest.param(c, marks=SOAK)
            for c in (b"\x80\x02", b"PK\x03\x04", os.urandom(4096), b"\x80\x04." * 999)
        ),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(WeightsMismatch):
        tensors_of(tmp_path / "m.pth", KEYS)


@pytest.mark.parametrize(
    "obj",
    [
        {"state_dict": {"a": "b"}},
        *(pytest.param(o, marks=SOAK) for o in ([1, 2], {"a": 1}, torch.ones(3), {})),
    ],
)
def test_a_file_without_tensors_by_name_is_refused(tmp_path, obj):
    torch.save(obj, tmp_path / "m.pth")
    with pytest.raises(WeightsMismatch, match="holds no state_dict"):
        tensors_of(tmp_path / "m.pth", KEYS)


# --- heads: safetensors and JSON ------------------------------------------------------------------------------------


@pytest.fixture
def head(tmp_path):
    rng = np.random.default_rng(0)
    bags = Bags(
        tuple("abcdefgh"), rng.normal(size=(8, 4)).astype(np.float32), tuple(((i, i + 1),) for i in range(8))
    )
    target = ClassTarget(("n", "t"), np.array([0, 1] * 4))
    made = fit(HeadOptions(), bags, target, np.arange(8), np.zeros(0, np.int64), seed=0)
    save_head(made, tmp_path / "H")
    return tmp_path / "H"


def forged(head: Path, **arrays) -> None:
    """Other weights, with a digest in the record that fits them."""
    import hashlib
    import json

    from safetensors.numpy import load, save

    weights = dict(load((head / "weights.safetensors").read_bytes())) | arrays
    data = save({name: value for name, value in weights.items() if value is not None})
    (head / "weights.safetensors").write_bytes(data)
    record = json.loads((head / "head.json").read_text())
    (head / "head.json").write_text(json.dumps(record | {"weights_sha256": hashlib.sha256(data).hexdigest()}))


@pytest.mark.parametrize(
    "arrays",
    [
        {"coef": np.full((2, 4), np.nan)},
        {"coef": np.full((2, 4), np.inf)},
        {"coef": np.zeros((2, 5))},
        {"coef": np.zeros((4, 2))},
        {"coef": np.zeros(0)},
        {"coef": None},
        {"stranger": np.zeros(3)},
        {"intercept": np.array([0, 1], np.int64)},
    ],
    ids=["nan", "inf", "wide", "turned", "empty", "missing", "stranger", "integers"],
)
def test_a_head_whose_weights_do_not_fit_is_refused(head, arrays):
    forged(head, **arrays)
    with pytest.raises(HeadError):
        load_head(head)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 1 << 40),
        struct.pack("<Q", 2) + b"{}x",
        struct.pack("<Q", 8) + b"[[[[[[[[",
        os.urandom(99),
    ],
    ids=["empty", "zero", "giant header", "trailing", "no object", "noise"],
)
def test_damaged_safetensors_are_refused(head, data):
    import hashlib
    import json

    (head / "weights.safetensors").write_bytes(data)
    record = json.loads((head / "head.json").read_text())
    (head / "head.json").write_text(json.dumps(record | {"weights_sha256": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(HeadError):
        load_head(head)


def test_a_pickle_in_a_head_is_not_run(head, tmp_path):
    mark = tmp_path / "ran"
    (head / "weights.safetensors").write_bytes(pickle.dumps(payload("os.system", mark)))
    with pytest.raises(HeadError):
        load_head(head)
    assert not mark.exists()


# --- tensors of other tools' features -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_payload_in_a_file_of_features_is_not_run(tmp_path, kind, how):
    from beph_store.errors import SlideUnreadable
    from beph_store.interop.tensors import read_pt

    mark, path = tmp_path / "ran", tmp_path / "slide.pt"
    save({"features": torch.ones(3, 4), "meta": payload(kind, mark)}, path, how)
    with pytest.raises(SlideUnreadable):
        read_pt(path, "slide")
    assert not mark.exists()
