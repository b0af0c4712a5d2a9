"""What a recipe's run will need, told before anything large is loaded.

`plan.py` puts the plan together and `report.py` prints it. `questions.py` counts what there is to
ask; `memory.py` says what a step needs, with the help of `activations.py`, which runs the learner's
own code without numbers; `advice.py` says what to change where that does not fit.
"""
