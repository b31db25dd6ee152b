"""Imported once before a study's processes part, so that none of them waits for it."""

import torch
import transformers
import trl

import evalhooks.checkpoints
import launch.parts
import microworld.policy
import ppo.train
import rmtrain.train

__all__ = ["evalhooks", "launch", "microworld", "ppo", "rmtrain", "torch", "transformers", "trl"]
