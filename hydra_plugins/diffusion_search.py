"""`hydra/sweeper=search`. Hydra finds plugins only in the package `hydra_plugins`, and imports all at every start."""

from typing import Any

from hydra.plugins.sweeper import Sweeper


class Search(Sweeper):
    """Runs a `diffusion.runs.search.Search`; conf/hydra/sweeper/search.yaml explains the settings."""

    def __init__(self, sampler: Any, **settings: Any):
        self.sampler, self.settings = sampler, settings  # a sampler is built for each trial

    def setup(self, **given: Any) -> None:
        """Called by Hydra before `sweep`. Raises UserError for a wrong setting, or without Optuna."""
        from diffusion.config.build import make
        from diffusion.errors import imported

        imported("optuna", "hydra/sweeper=search", "sweep")
        node = {"_target_": "diffusion.runs.search.Search", **self.settings}
        self.search = make(node, "hydra.sweeper", sampler=self.sampler, **given)

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are missing."""
        self.search.run(arguments)
