"""The devices that a training computes on: every GPU there is, or else the processor."""

from __future__ import annotations

import tensorflow as tf


def strategy() -> tf.distribute.Strategy:
    """Returns how the devices share the work: a `tf.distribute.MirroredStrategy` where there are several GPUs.

    The environment variable ``CUDA_VISIBLE_DEVICES`` says which GPUs there are.
    """
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def replica() -> int:
    """Returns the number of the device that this is computed for, from 0."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else int(tf.get_static_value(context.replica_id_in_sync_group))


def of_all(*values: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Returns what each device has, [n, ...] where n may differ, one behind the other: the same on each of them.

    Where each device goes on to the same scalar, the gradients of that, summed over the devices, are those of one
    device times their number.
    """
    if count() == 1:
        return values
    context = tf.distribute.get_replica_context()
    return tuple(context.all_gather(value, axis=0) for value in values)


def count() -> int:
    """Returns how many devices compute the same step."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync
