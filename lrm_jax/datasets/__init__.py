"""Datasets of views: records on disk, training batches, views for evaluation, and checks of the data."""

from lrm_jax import extras

extras.require('data', 'grain', 'tensorflow_datasets', purpose='reading datasets')
