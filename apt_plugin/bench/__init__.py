"""`apt-plugin bench`: what each way of training and acting costs, all rows in one run on one machine."""

from apt_plugin.bench.table import Row, show, table, write

__all__ = ["Row", "show", "table", "write"]
