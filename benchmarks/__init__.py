"""Measurements against etcd on the same machine in the same run; `make bench`."""
