"""`python -m apt_compare` is `apt-compare`."""

from apt_compare.command import main

if __name__ == "__main__":
    main()
