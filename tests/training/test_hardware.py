import psutil
import pytest
import tensorflow as tf

from training import hardware
from training.hardware import (
    describe_device,
    num_threads,
    physical_memory,
    resolve_compile,
    resolve_precision,
)


@pytest.fixture
def machine(monkeypatch):
    """Sets the processor's flags and the compute capability of the GPU, if there is one."""

    def set_up(*, flags=(), capability=None):
        gpus = [] if capability is None else [{"compute_capability": capability}]
        monkeypatch.setattr(hardware, "processor_flags", lambda: set(flags))
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: gpu)

    return set_up


@pytest.mark.parametrize(
    ("flags", "capability", "precision", "compile_mode"),
    [
        ({"avx2", "avx512f"}, None, "float32", "graph"),
        (set(), None, "float32", "graph"),
        ({"avx2", "avx512_bf16"}, None, "mixed_bfloat16", "graph"),
        ({"amx_bf16"}, None, "mixed_bfloat16", "graph"),
        ({"amx_bf16"}, (7, 5), "float32", "xla"),
        (set(), (8, 0), "mixed_bfloat16", "xla"),
        (set(), (12, 0), "mixed_bfloat16", "xla"),
    ],
)
def test_auto_depends_on_the_hardware(machine, flags, capability, precision, compile_mode):
    machine(flags=flags, capability=capability)
    assert resolve_precision("auto")[0] == precision
    assert resolve_compile("auto")[0] == compile_mode


def test_an_explicit_choice_is_kept_and_the_reason_for_auto_is_given(machine):
    machine(flags={"avx512_bf16", "amx_bf16"})
    assert resolve_precision("auto")[1] == "the processor has amx_bf16, avx512_bf16"
    assert resolve_precision("float32") == ("float32", "as set")
    assert resolve_compile("xla") == ("xla", "as set")


def test_memory_is_that_of_the_machine_or_of_a_container(tmp_path):
    total = psutil.virtual_memory().total
    assert physical_memory(tmp_path) == total
    for limit, expected in (("max", total), ("5000", 5000), (str(2 * total), total)):
        (tmp_path / "memory.max").write_text(limit)
        assert physical_memory(tmp_path) == expected


def test_the_device_of_a_run_is_named_and_an_unused_gpu_noted(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine()
    (tmp_path / "nvidiactl").touch()
    cpu = f"CPU with {num_threads()} thread{'s' * (num_threads() > 1)}"
    assert describe_device(tmp_path) == cpu and capsys.readouterr().err == ""
    (tmp_path / "nvidia0").touch()
    assert describe_device(tmp_path) == cpu
    note = capsys.readouterr().err
    assert note.startswith("note: TensorFlow cannot use the NVIDIA GPU of this machine.")
    assert f"-m pip install 'tensorflow[and-cuda]=={tf.__version__}'" in note
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert describe_device(tmp_path) == cpu
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    machine(capability=(9, 0))
    assert describe_device(tmp_path) == "GPU"
    assert capsys.readouterr().err == ""
