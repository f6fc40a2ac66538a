"""`run`, `check`, `trial` and `cache` take a host's own command line as it is, so tyro does not parse them."""

from __future__ import annotations

from apt_plugin.overview import CHECK


def run(argv: list[str]) -> int:
    """`run` takes the host's flags as they are, so it is not parsed by tyro."""
    from apt_plugin import launch

    if not argv or argv[0] in ("-h", "--help"):
        from apt_plugin.recipe_help import ours

        print(ours())
        return 0
    from apt_plugin.hosts import adapter_for, allow
    from apt_plugin.run.staged import carry_out

    adapter = adapter_for(argv)
    request = launch.split(argv, adapter.name)
    allow(request.untested)
    return carry_out(adapter, request)


def check(argv: list[str]) -> int:
    """`check` takes a host's training command as it is."""
    from apt_plugin import launch

    if not argv or argv[0] in ("-h", "--help"):
        print(CHECK)
        return 0
    from apt_plugin.hosts import adapter_for
    from apt_plugin.run import staged

    adapter = adapter_for(argv)
    return staged.check(adapter, launch.split(argv, adapter.name))


def trial(argv: list[str]) -> int:
    """`trial` takes a host's training command as it is."""
    from apt_plugin.trial_command import run

    return run(argv)


def cache(argv: list[str]) -> int:
    """`cache` takes a folder, or a host's training command as it is."""
    from apt_plugin import cache_command as command

    if not argv or argv[0] in ("-h", "--help"):
        print(command.__doc__)
        return 0
    return command.main(argv)


PASSED = {"run": run, "check": check, "trial": trial, "cache": cache}
