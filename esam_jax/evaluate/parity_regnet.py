"""RegNetY beside timm's: its logits, as those of any classifier."""

from esam_jax.evaluate.parity_classifier import golden_pairs, original_pairs

__all__ = ["golden_pairs", "original_pairs"]
