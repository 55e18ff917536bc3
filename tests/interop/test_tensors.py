"""``.pt`` without torch: what torch writes is read, what is written torch reads, and no pickle is run."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from beph_store.errors import SlideUnreadable
from beph_store.interop.tensors import read_pt, write_pt

torch = pytest.importorskip("torch")


def saved(path, thing, **options):
    torch.save(thing, path, **options)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8])
def test_a_tensor_of_torch_is_read_bit_for_bit(tmp_path, dtype):
    tensor = (torch.rand(33, 5) * 100).to(dtype)
    np.testing.assert_array_equal(read_pt(saved(tmp_path / "a.pt", tensor), "a"), tensor.numpy())


def test_bfloat16_is_widened_exactly(tmp_path):
    tensor = torch.randn(9, 4).bfloat16()
    read = read_pt(saved(tmp_path / "a.pt", tensor), "a")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, tensor.float().numpy())


@pytest.mark.parametrize("part", [np.s_[:, 3:5], np.s_[2:7], np.s_[::2], np.s_[0:0]])
def test_a_view_of_a_larger_tensor_is_read_as_the_view(tmp_path, part):
    tensor = torch.randn(12, 8).T[part]
    np.testing.assert_array_equal(read_pt(saved(tmp_path / "a.pt", tensor), "a"), tensor.numpy())


def test_of_a_dict_the_tensors_are_read(tmp_path):
    read = read_pt(saved(tmp_path / "a.pt", {"features": torch.ones(3, 2), "note": "x", "n": 3}), "a")
    assert list(read) == ["features"]
    assert read["features"].shape == (3, 2)


@pytest.mark.parametrize("shape", [(0, 7), (1, 1), (70_000, 3)])
def test_what_is_written_torch_opens_with_weights_only(tmp_path, shape):
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    write_pt(tmp_path / "a.pt", array)
    opened = torch.load(tmp_path / "a.pt", weights_only=True)
    assert opened.dtype == torch.float32
    np.testing.assert_array_equal(opened.numpy(), array)
    assert opened.is_contiguous()
    opened += 1  # it is the tensor's own memory, and may be written to
    np.testing.assert_array_equal(read_pt(tmp_path / "a.pt", "a"), array)


def test_a_dict_is_written_too(tmp_path):
    write_pt(
        tmp_path / "a.pt", {"features": np.ones((2, 3), np.float16), "coords": np.arange(4).reshape(2, 2)}
    )
    opened = torch.load(tmp_path / "a.pt", weights_only=True)
    assert {name: tuple(t.shape) for name, t in opened.items()} == {"features": (2, 3), "coords": (2, 2)}


def test_only_whole_files_get_their_name(tmp_path):
    write_pt(tmp_path / "a.pt", np.ones((2, 3), np.float32))
    with pytest.raises(KeyError):
        write_pt(tmp_path / "a.pt", np.ones((2, 3), np.complex64))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
    assert read_pt(tmp_path / "a.pt", "a").shape == (2, 3)


class Bomb:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (self.trace, "w"))


def spelled(values):
    """A tuple of whole numbers as opcodes."""
    return b"(" + b"".join(b"\x8a\x08" + v.to_bytes(8, "little", signed=True) for v in values) + b"t"


def zipped(path, description, data=b""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", description)
        archive.writestr("a/data/0", data)
    return path


def test_a_pickle_that_would_run_code_runs_none(tmp_path):
    trace = tmp_path / "trace"
    raw = pickle.dumps(Bomb(str(trace)))
    with pytest.raises(SlideUnreadable, match="nothing of it was run"):
        read_pt(zipped(tmp_path / "a.pt", raw), "a")
    (tmp_path / "b.pt").write_bytes(raw)
    with pytest.raises(SlideUnreadable, match="cut off"):
        read_pt(tmp_path / "b.pt", "b")
    assert not trace.exists()


def test_a_module_is_refused_by_name(tmp_path):
    with pytest.raises(SlideUnreadable, match=r"torch.nn.modules.linear.Linear is not one"):
        read_pt(saved(tmp_path / "a.pt", torch.nn.Linear(2, 2)), "a")


def test_the_old_format_of_torch_names_the_cure(tmp_path):
    path = saved(tmp_path / "a.pt", torch.ones(2), _use_new_zipfile_serialization=False)
    with pytest.raises(SlideUnreadable, match="weights_only=True and save it again"):
        read_pt(path, "a")


@pytest.mark.parametrize(
    "raw",
    [b"", b"PK", b"\x80\x02N.", pickle.dumps({"x": 1}), pickle.dumps(None), b"\x80\x04\x95\xff\xff\xff\xff"],
)
def test_whatever_the_description_is_the_error_is_one_line(tmp_path, raw):
    with pytest.raises(SlideUnreadable) as caught:
        read_pt(zipped(tmp_path / "a.pt", raw), "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95, 0.999])
def test_a_file_that_is_cut_off_is_said_to_be(tmp_path, keep):
    path = saved(tmp_path / "a.pt", torch.randn(100, 30))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(SlideUnreadable, match="cut off"):
        read_pt(path, "a")


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((9, 9), (9, 1), 0), ((2, 2), (2, 1), 99), ((2, 2), (-2, 1), 3), ((2,), (2**40,), 0)],
)
def test_a_tensor_beyond_its_data_is_refused(tmp_path, size, stride, offset):
    good = io.BytesIO()
    torch.save(torch.zeros(2, 2), good)
    with zipfile.ZipFile(good) as archive:
        raw = archive.read("archive/data.pkl")
    # The two tuples of a 2 × 2 tensor, and its offset, replaced by others.
    head, tail = raw.split(b"K\x02K\x02\x86", 1)
    assert head.endswith(b"K\x00")
    place = b"\x8a\x08" + offset.to_bytes(8, "little", signed=True)
    mark = tail.index(b"\x89")
    raw = head[:-2] + place + spelled(size) + spelled(stride) + tail[mark:]
    with pytest.raises(SlideUnreadable, match=r"beyond its data|holds more|cannot be read"):
        read_pt(zipped(tmp_path / "a.pt", raw, bytes(16)), "a")
