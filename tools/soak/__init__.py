"""`make soak`: random faults at random moments, and witnesses that share no code with what they judge.

    python -m tools.soak simulated --hours 100     scheduler, gate, queue, watchdog, servo loop; simulated time
    python -m tools.soak real --minutes 60         the daemon on the simulated robot; real time

docs/soak.md says what each proves.
"""
