"""What the tests of trajectory matching share: a small run, and its losses."""

from nas_proxy.distill.trajectory_matching.distiller import TrajectoryMatching

SMALL = {
    "num_steps": 2,
    "network_width": 4,
    "network_depth": 2,
    "num_inner_steps": 3,
    "matched_epochs": 1,
    "min_start_epoch": 0,
    "initial_max_start_epoch": 1,
    "max_start_epoch": 1,
    "window_growth_steps": 0,
    "image_learning_rate": 1.0,
    "initial_learning_rate": 0.1,
    "learning_rate_learning_rate": 1e-4,
    "zca": 0,
    "num_experts": 1,
    "expert_num_epochs": 3,
    "expert_learning_rate": 0.1,
}


def small(**options):
    return TrajectoryMatching(**{**SMALL, **options})


class Log:
    """A progress display that keeps the losses."""

    def __init__(self):
        self.losses = []

    def __call__(self, done, total, note=""):
        if note.startswith("loss "):
            self.losses.append(float(note.removeprefix("loss ")))
