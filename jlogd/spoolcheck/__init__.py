"""What a spool's mount really does: locks, syncs, names, on one host and between two.

    findings       PASS, FAIL, UNKNOWN: a line with its reason and remedy
    mountinfo      facts about mounts             mount_rules   what is known of them
    agent          a process that does operations helpers       starting, asking and killing those
    lock_checks    file_checks    peer_checks     what is asked for, and what the answers mean
    peer           the helper of another host     verdict       what a spool remembers of it
    check          all of it put together

`check.quick_check(path)` for the checks of every start, `check.admit(path, accept_risk)` for what a daemon does with
them, `verdict.told_risks(path)` for what was accepted. Nothing is imported here: whoever asks for the risks alone is
not to wait for the rest.
"""
