import json

import numpy as np
import pytest
from PIL import Image

from beph_store_cli.main import main


@pytest.fixture
def run(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["beph-store", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    return call


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for n in range(4):
        Image.fromarray(np.full((32, 32, 3), 40 * n, np.uint8)).save(root / f"{n}.png")
    return root


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "pass --mpp"),
        (("--mpp", "0.5", "--init", "beph"), "pass --weights"),
        (("--mpp", "0.5", "--size", "huge"), "choose from mini, tiny, small, base"),
        (("--mpp", "0.5", "--batch", "0"), "at least 1"),
        (("--mpp", "0.5", "--precision", "int3"), "no precision"),
        (("--mpp", "0.5", "--warmup", "2"), "share of the steps"),
    ],
)
def test_what_does_not_fit_is_one_line_with_its_cure(run, images, tmp_path, capfd, more, words):
    assert run("pretrain", images, "--out", tmp_path / "out", "--device", "cpu", *more) == 2
    err = capfd.readouterr().err
    assert words in err
    assert [line for line in err.splitlines() if line.startswith("error:")]


def test_the_error_is_an_object_too(run, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert run("pretrain", tmp_path / "empty", "--out", tmp_path / "out", "--json") == 2
    out = capfd.readouterr().out
    assert "holds no images" in json.loads(out)["error"]
