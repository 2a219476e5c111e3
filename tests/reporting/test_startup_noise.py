"""TensorFlow's start does not bury a verdict, and what a run says stays."""

from pytest_bnconsistency.reporting.startup_noise import without_noise

NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795868179.945331   14872 port.cc:153] oneDNN custom operations are on.
2024-05-01 10:00:00.123456: I tensorflow/core/util/port.cc:113] oneDNN custom operations are on.
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow
E0000 00:00:1795868187.253253   14872 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR
2024-05-01 10:00:00.1: E external/xla/cuda_fft.cc:9] Unable to register cuFFT factory: twice
"""
KEPT = """\
I am a line of the user's
W0000 00:00:1795868179.945331   14872 gpu.cc:153] out of memory
2024-05-01 10:00:00.123456: W tensorflow/core/framework/op.cc:113] input is NaN
E0000 00:00:1795868179.945331   14872 op.cc:153] bad
"""


def test_only_the_start_is_left_out():
    first, *rest = KEPT.splitlines(keepends=True)
    assert without_noise(first + NOISE + "".join(rest)) == KEPT
    assert without_noise(NOISE) == ""
