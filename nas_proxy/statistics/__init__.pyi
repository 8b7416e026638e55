from .accuracy import SeedMean, over_images, over_seeds
from .ranks import Estimate, estimate, spearman

__all__ = ["Estimate", "SeedMean", "estimate", "over_images", "over_seeds", "spearman"]
