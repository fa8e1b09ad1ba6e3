"""Optimizers, learning rates, gradient clipping, and averages of the parameters.

optimizer = Adam(model, lr=lr.warmup_cosine(2e-3, 100, 1500))
loss, grads = value_and_grad(loss_of, model)(batch)
optimizer.step(grads)
"""

from minidiff.optim import lr
from minidiff.optim.clipping import clip_gradients
from minidiff.optim.ema import EMA
from minidiff.optim.optimizer import Optimizer
from minidiff.optim.optimizers import SGD, Adam, AdamW

__all__ = ["EMA", "SGD", "Adam", "AdamW", "Optimizer", "clip_gradients", "lr"]
