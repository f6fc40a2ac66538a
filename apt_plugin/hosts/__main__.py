"""`python -m apt_plugin.hosts <host>`: try the host's canaries in this process; see `apt_plugin.canaries`."""

import sys

from apt_plugin import canaries
from apt_plugin.hosts import HOSTS

if __name__ == "__main__":
    canaries.tell(HOSTS[sys.argv[1]].canaries())
