"""Devices that a training runs on: all GPUs, or the CPU if there is no GPU, of one process or of several."""

from __future__ import annotations

import tensorflow as tf


def strategy() -> tf.distribute.Strategy:
    """Returns the distribution strategy of a training in one process.

    It is a `tf.distribute.MirroredStrategy` if there are several GPUs, else TensorFlow's default strategy. The
    environment variable ``CUDA_VISIBLE_DEVICES`` selects the GPUs.
    """
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def replica() -> int:
    """Returns the index of the device that runs the caller, from 0."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else int(tf.get_static_value(context.replica_id_in_sync_group))


def gather_all(*values: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Returns each value concatenated over all devices along its first axis; every device gets the same tensors.

    If every device then computes the same scalar, the sum of its gradients over the devices is the gradient of a single
    device times the number of devices.

    Args:
        values: [n, ...] tensors of this device; n may differ from device to device.
    """
    if count() == 1:
        return values
    context = tf.distribute.get_replica_context()
    # TensorFlow gathers tensors whose device it knows: the copies are on this one.
    return tuple(context.all_gather(tf.identity(value), axis=0) for value in values)


def sum_all(value: tf.Tensor) -> tf.Tensor:
    """Returns the sum of a tensor over all devices; every device gets the same one."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))


def count() -> int:
    """Returns the number of devices among which a training step is divided: 1 without a distribution strategy."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync
