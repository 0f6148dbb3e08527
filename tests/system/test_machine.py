"""Description of the processor."""

from system.machine import processor_lines


def test_processor_lines_are_read_from_cpuinfo(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("model name\t: flags of a CPU\nflags\t\t: fpu avx2 amx_bf16\nvmx flags\t: vnmi\n")
    assert processor_lines("flags", path) == ["fpu avx2 amx_bf16"]
    assert processor_lines("model name", path) == ["flags of a CPU"]
    assert processor_lines("flags", tmp_path / "missing") == []
