"""What a process holds besides the model: all of it must be after a check as it was before."""

import gc
import inspect
import logging
import os
import random
import signal
import sys
import threading
import warnings

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

LIBRARIES = ("keras", "tensorflow", "tf_keras", "numpy")
GETTERS = ("backend", "floatx", "epsilon", "image_data_format", "dtype_policy")


def surroundings():
    """By name: values, or identities of what has none."""
    return {
        "python's random": random.getstate(),
        "numpy's random": str(np.random.get_state()),
        "tensorflow's operation seeds": _state(context.context()._rng),
        "tensorflow's seed": context.context()._seed,
        "tensorflow's generator": tf.random.get_global_generator().state.numpy().tobytes(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "filters of warnings": (id(warnings.filters), list(warnings.filters)),
        "warnings are shown by": warnings.showwarning,
        "collector": (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()),
        "threads": {thread for thread in threading.enumerate() if thread.is_alive()},
        "open files": _open_files(),
        "signals": {number: signal.getsignal(number) for number in _signals()},
        "tracing": (sys.gettrace(), sys.getprofile(), sys.excepthook),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "path": list(sys.path),
        "context": (tf.executing_eagerly(), tf.compat.v1.get_default_graph().as_graph_def()),
        **_of_keras(),
        **_of_tensorflow(),
        **_of_logging(),
    }


def _state(generator):
    return None if generator is None else generator.getstate()


def _signals():
    return [number for number in signal.valid_signals() if number not in (signal.SIGKILL,)]


def _open_files():
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return []
    found = []
    for name in os.listdir(folder):
        try:
            found.append((name, os.readlink(f"{folder}/{name}")))
        except OSError:  # of the listing itself
            continue
    return sorted(found)


def _of_keras():
    told = {f"keras.config.{name}": getattr(keras.config, name)() for name in GETTERS}
    for name, function in vars(keras.config).items():
        if name.startswith("is_") and not inspect.signature(function).parameters:
            told[f"keras.config.{name}"] = function()
    seeds = keras.src.backend.common.global_state.get_global_attribute("global_seed_generator")
    told["keras' seeds"] = None if seeds is None else seeds.state.numpy().tobytes()
    names = keras.src.backend.common.global_state.get_global_attribute("object_name_uids")
    told["keras' names"] = dict(names or {})
    return told


def _of_tensorflow():
    return {
        "tf.config.optimizer": tf.config.optimizer.get_experimental_options(),
        "tf.config.optimizer.jit": tf.config.optimizer.get_jit(),
        "tf.config eager": tf.config.functions_run_eagerly(),
        "tf.config placement": tf.config.get_soft_device_placement(),
        "tf.config threads": (
            tf.config.threading.get_inter_op_parallelism_threads(),
            tf.config.threading.get_intra_op_parallelism_threads(),
        ),
        "tf.config float32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "operation callbacks": list(context.context().op_callbacks),
        "call options": context.context().function_call_options.config_proto_serialized,
    }


def _of_logging():
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {
        f"logger {logger.name}": (logger.level, list(logger.handlers), logger.disabled)
        for logger in loggers
        if isinstance(logger, logging.Logger)
    }


def assert_unchanged(before):
    """The surroundings are as they were, told by name where they are not."""
    now = surroundings()
    moved = {
        name: (value, now.get(name))
        for name, value in before.items()
        if now.get(name, value) != value
    }
    assert not moved, f"left behind: {moved}"


def code_of_libraries():
    """What stands in the classes and modules of the libraries, by identity.

    Takes a second: for the beginning and the end of many runs.
    """
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in LIBRARIES or module is None:
            continue
        for key, value in list(vars(module).items()):
            if callable(value):
                found[name, key] = value
            if isinstance(value, type) and value.__module__ == name:
                members = list(vars(value).items())
                found.update(
                    ((name, key, member), owned)
                    for member, owned in members
                    if not member.startswith(("__abstractmethods__", "_abc_", "__doc__"))
                )
    return found


def assert_same_code(before):
    now = code_of_libraries()
    replaced = [key for key, value in before.items() if now.get(key, value) is not value]
    assert not replaced, f"replaced and not put back: {replaced[:10]}"
