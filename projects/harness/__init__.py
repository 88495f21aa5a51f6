"""What every study of a claim shares: a grid of runs, paired statistics, rules, the result file.

A study declares a :class:`study.Study`: arms, settings, seeds, a function that trains one run,
metrics and a rule that is written down before the runs that count. Its ``main()`` does the rest.
"""
