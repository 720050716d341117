"""What is beside the main job: the race, published studies, the checks of `doctor --try`, exported formats."""
