"""LIBERO and LIBERO-PRO where the policy is told what is scored, and suites of each task that a scene allows.

    suites          the installed LIBERO's suites with the right sentences; `<suite>_counterfactual`
    __main__        any evaluator's script on these suites: python -m apt_plugin.libero SCRIPT ...
    worker          the same in the processes that a script spawns
    reached, watch  which object an arm went for, a line of each episode
    host, gym_env   lerobot's --env.type=libero_scored

Imports neither LIBERO nor a framework.
"""
