"""The devices of a training: all GPUs, or the CPU if there is none."""

from __future__ import annotations

import tensorflow as tf


def strategy() -> tf.distribute.Strategy:
    """Returns the distribution strategy: a `tf.distribute.MirroredStrategy` if there are several GPUs.

    The environment variable ``CUDA_VISIBLE_DEVICES`` selects the GPUs.
    """
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def replica() -> int:
    """Returns the index of the device that runs the caller, from 0."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else int(tf.get_static_value(context.replica_id_in_sync_group))


def gather_all(*values: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Returns the values of all devices, [n, ...] each with its own n, concatenated: the same tensors on every device.

    If every device then computes the same scalar, its gradients, summed over the devices, are those of a single device
    times the number of devices.
    """
    if count() == 1:
        return values
    context = tf.distribute.get_replica_context()
    return tuple(context.all_gather(value, axis=0) for value in values)


def count() -> int:
    """Returns the number of devices that share a step."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync
