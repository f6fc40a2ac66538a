"""`python -m apt_plugin` is `apt-plugin`."""

from apt_plugin.cli import main

if __name__ == "__main__":
    main()
