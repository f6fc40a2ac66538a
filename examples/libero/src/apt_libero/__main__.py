"""`python -m apt_libero` is `apt-libero`."""

from apt_libero.command import main

if __name__ == "__main__":
    main()
