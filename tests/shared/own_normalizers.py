"""Normalization layers that users write: with a momentum, and with nothing that tells of them."""

import tensorflow as tf


def home_made(k, kept=None, variables=None):
    """A layer that keeps its momentum, or a fixed share, in statistics of a dtype."""

    class Home(k.layers.Layer):
        def __init__(self, momentum=0.99, **arguments):
            super().__init__(**arguments)
            self.momentum = momentum

        def get_config(self):
            return {**super().get_config(), "momentum": self.momentum}

        def build(self, shape):
            def weight(name):
                dtype = variables or self.compute_dtype
                return self.add_weight(
                    shape=shape[-1:], name=name, trainable=False, dtype=dtype, initializer="zeros"
                )

            self.mean, self.variance = weight("mean"), weight("variance")
            super().build(shape)

        def call(self, x, training=None):
            mean, variance = tf.nn.moments(x, [0])
            if not training:
                mean, variance = (tf.cast(v, x.dtype) for v in (self.mean, self.variance))
            for v, new in ((self.mean, mean), (self.variance, variance)) if training else ():
                share = tf.cast(kept or self.momentum, v.dtype)
                v.assign(tf.cast(v, v.dtype) * share + tf.cast(new, v.dtype) * (1 - share))
            return (x - mean) / tf.sqrt(variance + tf.cast(1e-3, x.dtype))

    return Home


def nameless(k, kept=0.9, counting=False, dtype="float32"):
    """A layer that tells nothing of itself: moving averages, or those of all rows so far."""

    class Nameless(k.layers.Layer):
        def build(self, shape):
            def weight(name, start):
                return self.add_weight(
                    shape=shape[-1:], name=name, trainable=False, dtype=dtype, initializer=start
                )

            self.m, self.v = weight("m", "zeros"), weight("v", "ones")
            self.seen = weight("seen", "zeros")
            super().build(shape)

        def call(self, x, training=None):
            mean, variance = tf.nn.moments(x, [0])
            if not training:
                mean, variance = (tf.cast(v, x.dtype) for v in (self.m, self.v))
                return (x - mean) / tf.sqrt(variance + 1e-3)
            rows = tf.cast(tf.shape(x)[0], tf.float32)
            seen = tf.cast(self.seen, tf.float32)
            for v, new in ((self.m, mean), (self.v, variance)):
                share = tf.cast(seen / (seen + rows) if counting else kept, v.dtype)
                v.assign(tf.cast(v, v.dtype) * share + tf.cast(new, v.dtype) * (1 - share))
            if counting:
                self.seen.assign(seen + rows)
            return (x - mean) / tf.sqrt(variance + 1e-3)

    return Nameless(name="home")
