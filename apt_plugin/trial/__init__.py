"""`apt-plugin trial`: which way of training makes a policy listen, found out by short runs. No framework, no host.

options    the flags                    ways      what is tried, simplest first
pilot      what is asked of a host      held_out  episodes that nothing trains on
runs       the short runs, resumable    plan      what a trial's folder is about
pace       steps by measured seconds
answer     what a run's policy said     pick      which way is better, and in words
carry      all of it, in order          pages     the page
"""
