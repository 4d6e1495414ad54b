"""Measurements that docs/ quotes. Each is one command, which measures all contenders in the same run."""
