"""Somebody's own serving code: neither Keras nor `tf.Module`, and it can't be called."""

import tensorflow as tf


class Pipeline:
    """Standardises rows by running statistics, then scores them."""

    def __init__(self, features: int, momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.mean = tf.Variable(tf.zeros(features), trainable=False)
        self.variance = tf.Variable(tf.ones(features), trainable=False)
        self.weights = tf.Variable(tf.random.stateless_normal([features, 1], seed=[1, 2]))

    def run(self, batch: tf.Tensor, learn: bool = False) -> tf.Tensor:
        mean, variance = self.mean, self.variance
        if learn:
            mean, variance = tf.nn.moments(batch, axes=0)
            self.mean.assign(self.momentum * self.mean + (1 - self.momentum) * mean)
            self.variance.assign(self.momentum * self.variance + (1 - self.momentum) * variance)
        return (batch - mean) / tf.sqrt(variance + 1e-3) @ self.weights


class HastyPipeline(Pipeline):
    """Learns while it serves."""

    def run(self, batch: tf.Tensor, learn: bool = True) -> tf.Tensor:
        return super().run(batch, learn)
