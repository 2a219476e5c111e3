import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# pytester drops what an inner run imports, and neither library survives a second import.
import numpy  # noqa: F401
import tensorflow  # noqa: F401

pytest_plugins = ["pytester"]
