"""Says which plugin a process has."""

import apt_plugin

print(apt_plugin.__file__)
