"""Making encoders: feature distillation, and later masked-image modelling.

Nothing is imported here: every module of this room needs torch.
"""
