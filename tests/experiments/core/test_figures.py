from __future__ import annotations

import matplotlib as mpl

from experiments.core.figures import new_figure


def test_a_figure_does_not_follow_the_settings_of_the_user_or_the_current_folder() -> None:
    with mpl.rc_context({"lines.linewidth": 30.0, "text.usetex": True}), new_figure(1, 1, 2.0):
        assert mpl.rcParams["lines.linewidth"] == mpl.rcParamsDefault["lines.linewidth"]
        assert not mpl.rcParams["text.usetex"]
